#!/usr/bin/env python3
"""The files that start a gateway elsewhere: what they name must be what the workspace has."""

import pathlib
import re
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent


class FilesTest(unittest.TestCase):
    def setUp(self):
        self.dockerfile = (HERE / "Dockerfile").read_text()
        self.unit = (HERE / "roost-gateway.service").read_text()
        self.keys = re.findall(r"^([a-z_]+) = ", (ROOT / "roost.example.toml").read_text(), re.MULTILINE)

    def test_the_image_builds_with_the_compiler_that_is_asked_for(self):
        wanted = re.search(r'^rust-version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
        self.assertIn(f"FROM rust:{wanted}-", self.dockerfile)

    def test_the_image_copies_binaries_that_are_built(self):
        built = set(re.findall(r"--package (\S+)", self.dockerfile))
        copied = set(re.findall(r"/release/(\S+)", self.dockerfile))
        self.assertEqual(built, copied)
        names = {re.search(r'^name = "(.+)"', path.read_text(), re.MULTILINE)[1] for path in ROOT.glob("*/Cargo.toml")}
        self.assertLessEqual(built, names)
        self.assertIn(f'ENTRYPOINT ["/usr/local/bin/{min(copied)}"]', self.dockerfile)

    def test_a_reload_is_checked_first_with_the_configuration_of_the_start(self):
        start = re.search(r"^ExecStart=(.+)$", self.unit, re.MULTILINE)[1]
        reloads = re.findall(r"^ExecReload=(.+)$", self.unit, re.MULTILINE)
        program, _, arguments = start.partition(" ")
        self.assertEqual(reloads, [f"{program} check {arguments}", "/bin/kill -HUP $MAINPID"])

    def test_rings_may_be_locked_memory(self):
        self.assertIn("--ulimit memlock=-1", self.dockerfile)
        self.assertIn("\nLimitMEMLOCK=infinity\n", self.unit)

    def test_the_image_runs_as_nobody_in_particular(self):
        self.assertRegex(self.dockerfile, r"(?m)^USER [1-9]\d*")

    def test_variables_are_keys(self):
        named = re.findall(r"ROOST_([A-Z_]+)=", self.dockerfile + self.unit)
        self.assertGreaterEqual(len(named), 4)
        for name in named:
            self.assertIn(name.lower(), self.keys)

    def test_the_unit_gives_a_drain_its_time(self):
        drain_ms = int(re.search(r"^drain_ms = (\d+)", (ROOT / "roost.example.toml").read_text(), re.MULTILINE)[1])
        stop_s = int(re.search(r"^TimeoutStopSec=(\d+)", self.unit, re.MULTILINE)[1])
        self.assertGreater(stop_s * 1000, drain_ms + 5_000)
        self.assertIn("Type=notify", self.unit)

    def test_the_unit_checks_what_it_starts_and_reloads(self):
        start = re.search(r"^ExecStart=(\S+)(.*)$", self.unit, re.MULTILINE)
        check = f"{start[1]} check{start[2]}"
        self.assertIn(f"ExecStartPre={check}\n", self.unit)
        reloads = re.findall(r"^ExecReload=(.*)$", self.unit, re.MULTILINE)
        self.assertEqual(reloads, [check, "/bin/kill -HUP $MAINPID"])

    def test_the_hand_over_socket_has_a_place_of_its_own(self):
        directory = re.search(r"^RuntimeDirectory=(\S+)$", self.unit, re.MULTILINE)[1]
        self.assertRegex(self.unit, rf"(?m)^Environment=ROOST_HANDOVER_SOCKET=%t/{directory}/\S+$")
        self.assertNotIn("example.invalid", self.unit)

    def test_the_limits_are_the_units(self):
        limit = re.search(r"^LimitNOFILE=(\d+)", self.unit, re.MULTILINE)[1]
        lines = [line.split() for line in (HERE / "limits.conf").read_text().splitlines() if not line.startswith("#")]
        self.assertEqual({line[3] for line in lines}, {limit})
        self.assertEqual({line[2] for line in lines}, {"nofile"})


if __name__ == "__main__":
    unittest.main()
