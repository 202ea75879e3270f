"""Tests of `tune` on a directory that plays the machine; no root needed.

    python3 -m unittest discover -s kernel-tuning
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

from settings import SETTINGS, Target

HERE = pathlib.Path(__file__).resolve().parent

# A machine of 24 GiB as it boots. Lists are separated by tabs, as the kernel writes them.
DEFAULTS = {
    "fs.file-max": "2466165",
    "fs.nr_open": "1048576",
    "net.core.somaxconn": "4096",
    "net.ipv4.tcp_mem": "287898\t383866\t575796",
    "net.ipv4.tcp_child_ehash_entries": "0",
    "net.ipv4.tcp_ehash_entries": "262144",
    "net.ipv4.ip_local_port_range": "32768\t60999",
    "kernel.io_uring_disabled": "2",
    "vm.overcommit_memory": "0",
}
GIB = 1 << 30


class TuneTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="roost-tune-")
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        for name, value in DEFAULTS.items():
            self.write(name, value)
        (self.root / "proc/meminfo").write_text(f"MemTotal: {24 * 1024 * 1024} kB\nMemFree: 1 kB\n")

    def path(self, name):
        return self.root / "proc/sys" / name.replace(".", "/")

    def write(self, name, value):
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")

    def tree(self):
        files = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): path.read_text() for path in files}

    def tune(self, *arguments, code=0):
        command = [sys.executable, HERE / "tune", "--root", self.root, *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stdout)
        return done.stdout

    def test_check_changes_nothing_and_names_each_setting_with_reason_and_risk(self):
        before = self.tree()
        text = self.tune("--connections", "1000000", "check", code=1)
        self.assertEqual(self.tree(), before)
        shown = {line.split()[0] for line in text.splitlines() if "." in line.split("  ")[0] and line[0] != " "}
        target = Target(1_000_000, 24 * GIB)
        expected = {setting.name for setting in SETTINGS if setting.wanted(target)}
        self.assertTrue(expected <= shown, expected - shown)
        self.assertGreaterEqual(text.count("    why "), len(expected) - 1)
        self.assertIn("thash_entries=1048576", text)
        self.assertIn("4 to apply, one at boot", text)

    def test_apply_then_check_is_content_but_for_the_boot_parameter(self):
        self.tune("--connections", "1000000", "apply")
        text = self.tune("--connections", "1000000", "check", code=1)
        self.assertIn("0 to apply, one at boot", text)
        self.write("net.ipv4.tcp_ehash_entries", "1048576")
        self.assertIn("all is as it should be", self.tune("--connections", "1000000", "check"))

    def test_apply_is_idempotent(self):
        self.tune("--connections", "1000000", "apply")
        once = self.tree()
        self.assertIn("nothing to change", self.tune("--connections", "1000000", "apply"))
        self.assertEqual(self.tree(), once)

    def test_revert_restores_every_byte(self):
        before = self.tree()
        self.tune("--connections", "1000000", "apply")
        self.assertNotEqual(self.tree(), before)
        self.tune("revert")
        self.assertEqual(self.tree(), before)
        self.assertIn("nothing was applied", self.tune("revert"))

    def test_revert_after_several_applies_goes_back_to_the_first(self):
        before = self.tree()
        for connections in ("100000", "3000000", "1000000"):
            self.tune("--connections", connections, "apply")
        self.tune("--connections", "2000000", "--generator", "apply")
        self.tune("revert")
        self.assertEqual(self.tree(), before)

    def test_revert_says_when_somebody_has_changed_a_setting_since(self):
        before = self.tree()
        self.tune("--connections", "1000000", "apply")
        self.write("net.core.somaxconn", "1234")
        self.assertIn("net.core.somaxconn: somebody has changed it to 1234 since", self.tune("revert"))
        self.assertEqual(self.tree(), before)

    def test_what_is_larger_already_stays(self):
        self.write("net.core.somaxconn", "1000000")
        self.write("net.ipv4.tcp_mem", "9000000\t300000\t9000000")
        self.tune("--connections", "1000000", "apply")
        self.assertEqual(self.path("net.core.somaxconn").read_text(), "1000000\n")
        self.assertEqual(self.path("net.ipv4.tcp_mem").read_text(), "9000000 1000000 9000000\n")

    def test_what_is_smaller_already_stays_where_less_is_better(self):
        self.write("kernel.io_uring_disabled", "0")
        self.tune("--connections", "1000000", "apply")
        self.assertEqual(self.path("kernel.io_uring_disabled").read_text(), "0\n")

    def test_the_profile_follows_connections_and_memory(self):
        small, large = Target(50_000, 24 * GIB), Target(5_000_000, 24 * GIB)
        wanted = {setting.name: setting.wanted for setting in SETTINGS}
        self.assertEqual(wanted["net.core.somaxconn"](small), (4096,))
        self.assertEqual(wanted["net.core.somaxconn"](large), (65535,))
        self.assertEqual(wanted["net.ipv4.tcp_child_ehash_entries"](large), (1 << 23,))
        self.assertEqual(wanted["net.ipv4.tcp_mem"](small), (37_500, 50_000, 75_000))
        # Five million sockets leave 24 GiB - 19.7 GiB; data may take half of it.
        most = wanted["net.ipv4.tcp_mem"](large)[2]
        self.assertEqual(most, (24 * GIB - 5_000_000 * 4_224) // 4_096 // 2)
        self.assertIsNone(wanted["fs.nr_open"](large))
        self.assertEqual(wanted["fs.nr_open"](Target(5_000_000, 24 * GIB, plain=True)), (5_100_000,))
        self.assertEqual(wanted["fs.file-max"](Target(1_000_000, 24 * GIB, generator=True)), (2_100_000,))

    def test_too_little_memory_is_said_with_the_arithmetic_and_nothing_is_applied(self):
        before = self.tree()
        self.assertIn("at most", self.tune("--connections", "6000000", "check", code=1))
        text = self.tune("--connections", "6000000", "apply", code=2)
        self.assertIn("6,000,000 sockets x 4,224 bytes = 23.6 GiB", text)
        self.assertEqual(self.tree(), before)
        self.tune("--connections", "5000000", "apply")

    def test_absent_settings_are_said_and_skipped(self):
        self.path("net.ipv4.tcp_child_ehash_entries").unlink()
        text = self.tune("--connections", "1000000", "check", code=1)
        self.assertRegex(text, r"net\.netfilter\.nf_conntrack_max +absent")
        self.assertRegex(text, r"net\.ipv4\.tcp_child_ehash_entries +absent")
        self.tune("--connections", "1000000", "apply")
        self.assertFalse(self.path("net.ipv4.tcp_child_ehash_entries").exists())

    def test_what_was_is_saved_before_anything_is_written(self):
        # The second setting cannot be written: a directory stands in its place.
        before = self.path("net.ipv4.tcp_mem").read_text()
        (self.root / "etc").mkdir()
        (self.root / "etc/sysctl.d").write_text("in the way")
        text = self.tune("--connections", "1000000", "apply", code=2)
        self.assertIn("cannot be written", text)
        saved = json.loads((self.root / "var/lib/roost/kernel-tuning.json").read_text())
        self.assertEqual(saved["net.ipv4.tcp_mem"]["before"] + "\n", before)
        (self.root / "etc/sysctl.d").unlink()
        self.tune("revert")
        self.assertEqual(self.path("net.ipv4.tcp_mem").read_text(), before)

    def test_the_settings_survive_a_reboot(self):
        self.tune("--connections", "1000000", "apply")
        lines = (self.root / "etc/sysctl.d/90-roost.conf").read_text().splitlines()
        self.assertIn("net.core.somaxconn = 65535", lines)
        for line in lines[1:]:
            name, value = line.split(" = ")
            self.assertEqual(self.path(name).read_text(), value + "\n")

    def test_a_namespace_that_shares_its_hash_is_told_so(self):
        self.write("net.ipv4.tcp_ehash_entries", "-262144")
        text = self.tune("--connections", "1000000", "check", code=1)
        self.assertIn("by making this namespace anew after apply", text)
        self.assertNotIn("thash_entries", text)

    def test_nonsense_is_refused(self):
        for arguments in (["check"], ["--connections", "0", "check"], ["--connections", "1", "tune"]):
            self.tune(*arguments, code=2)


if __name__ == "__main__":
    unittest.main()
