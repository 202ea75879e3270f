"""Checks the codecs against the golden vectors in protocol/vectors."""

import json
import pathlib
import unittest

from roosting.edge import codec as edge
from roosting.worker import codec as link

VECTORS = pathlib.Path(__file__).resolve().parents[3] / "protocol" / "vectors"


def load(name):
    return json.loads((VECTORS / name).read_text())


def u64(text):
    assert len(text) == 16
    return int(text, 16)


def typed(fields):
    """A vector's fields as the codecs have them: hexadecimal becomes bytes or numbers."""
    frame = dict(fields)
    for name in ("key", "token", "payload", "alternative", "message", "gateway", "worker", "nonce",
                 "expected_worker", "proof", "meta"):
        if frame.get(name) is not None:
            frame[name] = bytes.fromhex(frame[name])
    for name in ("session", "routing_hash", "position", "received_position", "connection"):
        if frame.get(name) is not None:
            frame[name] = u64(frame[name])
    if "ids" in frame:
        frame["ids"] = [u64(connection) for connection in frame["ids"]]
    if frame.get("peer") is not None:
        host, _, port = frame["peer"].rpartition(":")
        frame["peer"] = (host.strip("[]"), int(port))
    return frame


class Edge(unittest.TestCase):
    file = load("edge.json")

    def decode(self, case):
        """All of a case's frames, in reads of one byte."""
        decoder = edge.Decoder(case.get("frame_bytes_max", self.file["frame_bytes_max"]))
        frames = []
        for byte in bytes.fromhex(case["bytes"]):
            frames += [edge.decode_payload(*whole) for whole in decoder.feed(bytes([byte]))]
        return frames, len(decoder.rest)

    def test_good(self):
        for case in self.file["good"]:
            with self.subTest(case["name"]):
                self.assertEqual(self.decode(case), ([typed(case["frame"])], 0))
                self.assertEqual(edge.encode(typed(case["frame"])), bytes.fromhex(case["bytes"]))

    def test_decode_only(self):
        for case in self.file["decode_only"]:
            with self.subTest(case["name"]):
                self.assertEqual(self.decode(case), ([typed(case["frame"])], 0))

    def test_bad(self):
        for case in self.file["bad"]:
            with self.subTest(case["name"]), self.assertRaises(edge.FrameError) as raised:
                self.decode(case)
            self.assertEqual(raised.exception.args[0], case["error"], case["name"])

    def test_streams(self):
        for case in self.file["streams"]:
            data = bytes.fromhex(case["bytes"])
            for size in range(1, len(data) + 1):
                with self.subTest(case["name"], size=size):
                    decoder, kinds, error = edge.Decoder(self.file["frame_bytes_max"]), [], None
                    try:
                        for at in range(0, len(data), size):
                            for kind, _ in decoder.feed(data[at:at + size]):
                                kinds.append(kind)
                    except edge.FrameError as raised:
                        error = raised.args[0]
                    self.assertEqual((kinds, error), (case["frames"], case.get("error")))
                    if error is None:
                        self.assertEqual(len(decoder.rest), case["rest_bytes"])

    def test_reasons(self):
        cases = load("reasons.json")["reasons"]
        self.assertEqual({case["code"]: case["label"] for case in cases}, edge.REASONS)


class Link(unittest.TestCase):
    file = load("link.json")

    def decode(self, case):
        frame_bytes_max = case.get("frame_bytes_max", self.file["frame_bytes_max"])
        data = bytes.fromhex(case["bytes"])
        whole = link.split(data, link.payload_bytes_max(frame_bytes_max))
        self.assertIsNotNone(whole, "the frame is whole")
        self.assertEqual(len(data), link.HEADER_BYTES + len(whole[1]))
        return link.decode_frame(*whole, frame_bytes_max)

    def test_good(self):
        for case in self.file["good"]:
            with self.subTest(case["name"]):
                self.assertEqual(self.decode(case), typed(case["frame"]))
                self.assertEqual(link.encode_frame(typed(case["frame"])), bytes.fromhex(case["bytes"]))

    def test_decode_only(self):
        for case in self.file["decode_only"]:
            with self.subTest(case["name"]):
                self.assertEqual(self.decode(case), typed(case["frame"]))

    def test_bad(self):
        for case in self.file["bad"]:
            with self.subTest(case["name"]), self.assertRaises(link.LinkError) as raised:
                self.decode(case)
            self.assertEqual(raised.exception.args[0], case["error"], case["name"])

    def test_streams(self):
        limit = link.payload_bytes_max(self.file["frame_bytes_max"])
        for case in self.file["streams"]:
            with self.subTest(case["name"]):
                rest, kinds, error = bytes.fromhex(case["bytes"]), [], None
                try:
                    while whole := link.split(rest, limit):
                        kinds.append(whole[0]["type"])
                        rest = rest[link.HEADER_BYTES + len(whole[1]):]
                except link.LinkError as raised:
                    error = raised.args[0]
                self.assertEqual((kinds, error), (case["frames"], case.get("error")))
                self.assertEqual(sum(map(link.is_sequenced, kinds)), case["sequenced"])
                if error is None:
                    self.assertEqual(len(rest), case["rest_bytes"])


class Routing(unittest.TestCase):
    def test_hashes(self):
        file = load("hash.json")
        for case in file["mix"]:
            self.assertEqual(link.mix(u64(case["input"])), u64(case["output"]))
        for case in file["keys"]:
            key = bytes.fromhex(case["key"])
            self.assertEqual(link.fnv1a_32(key), int(case["fnv1a_32"], 16))
            self.assertEqual(link.fnv1a_64(key), u64(case["fnv1a_64"]))
            self.assertEqual(link.partition(key), case["partition"])
            self.assertEqual(link.routing_hash(key), u64(case["routing_hash"]))
            self.assertEqual(link.partition_of(u64(case["routing_hash"])), case["partition"])
        for case in file["workers"]:
            self.assertEqual(link.fnv1a_64(case["name"].encode()), u64(case["fnv1a_64"]))
            self.assertEqual(link.worker_hash(case["name"]), u64(case["worker_hash"]))

    def test_rendezvous(self):
        for case in load("rendezvous.json")["cases"]:
            partition, names = case["partition"], case["workers"]
            weights = [link.weight(partition, link.worker_hash(name)) for name in names]
            self.assertEqual(weights, list(map(u64, case["weights"])))
            self.assertEqual(link.rendezvous(partition, names), case["owner"])

    def test_the_top_bits_of_a_routing_hash_decide(self):
        names = ["a", "b", "c"]
        for key in (b"", b"user-7", bytes(range(256))):
            route = link.routing_hash(key)
            for low in (0, 1, 2**50 - 1):
                self.assertEqual(link.rendezvous(link.partition_of(route >> 50 << 50 | low), names), link.owner(key, names))

    def test_proofs(self):
        for case in load("proof.json")["cases"]:
            with self.subTest(case["name"]):
                given = [bytes.fromhex(case[name]) for name in ("secret", "hello", "welcome")]
                secret, hello, welcome = given
                for side in ("worker", "gateway"):
                    proof = bytes.fromhex(case[side])
                    self.assertTrue(link.verify(secret, side, hello, welcome, proof))
                    self.assertFalse(link.verify(secret + b"!", side, hello, welcome, proof))


if __name__ == "__main__":
    unittest.main()
