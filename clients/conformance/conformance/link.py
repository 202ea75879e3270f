"""The link protocol as bytes (SPEC.md, parts 2 and 3), written from the text alone."""

import collections
import hashlib
import hmac
import os
import struct

from .edge import MESSAGE, Malformed, counted, frame as edge_frame

LINK_HELLO, LINK_WELCOME, LINK_PROOF, LINK_REFUSE, ACK, PING, PONG, DRAINING = range(1, 9)
OPEN, ACCEPT, REJECT, DATA, CLOSED, CLOSE, MULTICAST, BROADCAST, REOPEN, MOVED, RELAY = range(16, 27)
NAMES = {1: "LINK_HELLO", 2: "LINK_WELCOME", 3: "LINK_PROOF", 4: "LINK_REFUSE", 5: "ACK", 6: "PING", 7: "PONG",
         8: "DRAINING", 16: "OPEN", 17: "ACCEPT", 18: "REJECT", 19: "DATA", 20: "CLOSED", 21: "CLOSE",
         22: "MULTICAST", 23: "BROADCAST", 24: "REOPEN", 25: "MOVED", 26: "RELAY"}
RESENT, ALL, TEXT, DEFLATED, DIRECT = 0x01, 0x02, 0x04, 0x08, 0x10
NONE = bytes(16)
# Ids of shard 0: each has a slot of its own, and the first is 0.
ID = [slot << 32 | (slot > 0) for slot in range(100)]

Frame = collections.namedtuple("Frame", "type flags aux connection payload raw")


def frame(code, payload=b"", connection=0, aux=0, flags=0):
    return struct.pack(">IBBHQ", len(payload), code, flags, aux, connection) + payload


def split(buffer):
    """(Frame, rest), or none if the first frame is not whole."""
    if len(buffer) < 16:
        return None
    length, code, flags, aux, connection = struct.unpack(">IBBHQ", buffer[:16])
    if len(buffer) < 16 + length:
        return None
    raw = bytes(buffer[:16 + length])
    return Frame(code, flags, aux, connection, raw[16:], raw), buffer[16 + length:]


def message(payload):
    return edge_frame(MESSAGE, payload)


def data(connection, payload, flags=0):
    return frame(DATA, message(payload), connection, flags=flags)


def ack(position):
    return frame(ACK, struct.pack(">Q", position))


def open_(connection, key=b"k", token=b"", framing=0, meta=b"", routing=None, aux=0):
    routing = routing_hash(key) if routing is None else routing
    payload = struct.pack(">QBB", routing, framing, 4) + bytes([127, 0, 0, 1]) + struct.pack(">H", 4242)
    return frame(OPEN, payload + counted(key) + counted(token) + counted(meta), connection, aux)


def reopen(connection, reference, key=b"k"):
    return frame(REOPEN, struct.pack(">QQB", routing_hash(key), reference, 0), connection)


def parse_open(payload):
    """The fields of OPEN; what is wrong is raised."""
    if len(payload) < 10:
        raise Malformed(f"OPEN of {len(payload)} bytes")
    routing, framing, family = struct.unpack(">QBB", payload[:10])
    size = {0: 0, 4: 6, 6: 18}.get(family)
    if size is None or framing > 3:
        raise Malformed(f"family {family}, framing {framing}")
    address, at, fields = payload[10:10 + size], 10 + size, []
    for limit in (256, 4096, 8192):
        length = int.from_bytes(payload[at:at + 2], "big")
        fields.append(payload[at + 2:at + 2 + length])
        at += 2 + length
        if length > limit or at > len(payload):
            raise Malformed("a field of OPEN is too long")
    if at != len(payload):
        raise Malformed("bytes behind the meta of OPEN")
    return {"routing_hash": routing, "framing": framing, "family": family, "address": address, "key": fields[0],
            "token": fields[1], "meta": fields[2]}


HELLO = struct.Struct(">BBHHH16s16s16sQIIIIIII")
HELLO_NAMES = ("version", "flags", "shard", "shards", "zero", "gateway", "nonce", "expected_worker",
               "received_position", "window_bytes", "frame_bytes_max", "capabilities", "link_failover_ms",
               "link_keepalive_ms", "idle_timeout_ms", "messages_per_s_max")
WELCOME = struct.Struct(">BBHI16s16sQI")
WELCOME_NAMES = ("version", "flags", "zero", "window_bytes", "worker", "nonce", "received_position", "capabilities")


def hello(**fields):
    """The payload of LINK_HELLO."""
    values = dict(version=1, flags=0, shard=0, shards=1, zero=0, gateway=os.urandom(16), nonce=os.urandom(16),
                  expected_worker=NONE, received_position=0, window_bytes=1 << 20, frame_bytes_max=65_536,
                  capabilities=0, link_failover_ms=10_000, link_keepalive_ms=10_000, idle_timeout_ms=150_000,
                  messages_per_s_max=0)
    values.update(fields)
    return HELLO.pack(*(values[name] for name in HELLO_NAMES))


def parse_hello(payload):
    if len(payload) != 92:
        raise Malformed(f"LINK_HELLO of {len(payload)} bytes")
    return dict(zip(HELLO_NAMES, HELLO.unpack(payload)))


def welcome(**fields):
    """The proven part of LINK_WELCOME."""
    values = dict(version=1, flags=0, zero=0, window_bytes=4 << 20, worker=os.urandom(16), nonce=os.urandom(16),
                  received_position=0, capabilities=0)
    values.update(fields)
    return WELCOME.pack(*(values[name] for name in WELCOME_NAMES))


def parse_welcome(payload):
    """The fields of LINK_WELCOME, the proof among them (none if there is none)."""
    if len(payload) not in (53, 85) or payload[52] != len(payload) - 53:
        raise Malformed(f"LINK_WELCOME of {len(payload)} bytes, proof length {payload[52:53].hex()}")
    fields = dict(zip(WELCOME_NAMES, WELCOME.unpack(payload[:52])))
    fields["proof"] = payload[53:] or None
    if fields["version"] != 1 or fields["flags"] > 1 or fields["zero"] or not fields["window_bytes"]:
        raise Malformed(f"LINK_WELCOME states {fields}")
    if fields["worker"] == NONE or (not fields["flags"] and fields["received_position"]):
        raise Malformed("LINK_WELCOME without an instance, or with a position of a new session")
    return fields


def proof(secret, side, hello_payload, proven):
    return hmac.new(secret, b"roost-link-v1 " + side + hello_payload + proven, hashlib.sha256).digest()


def proof_frame(value):
    return frame(LINK_PROOF, bytes([len(value or b"")]) + (value or b""))


MASK = (1 << 64) - 1


def mix(x):
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def fnv1a(data, start, prime, bits):
    h = start
    for byte in data:
        h = (h ^ byte) * prime & ((1 << bits) - 1)
    return h


def fnv64(data):
    return fnv1a(data, 0xCBF29CE484222325, 0x100000001B3, 64)


def partition(key):
    return fnv1a(key, 0x811C9DC5, 0x01000193, 32) % 16_384


def routing_hash(key):
    return partition(key) << 50 | mix(fnv64(key)) >> 14


def owner(routing, names):
    """The name that owns the hash among those that are up."""
    return max(names, key=lambda name: mix(mix((routing >> 50) + 1) ^ mix(fnv64(name.encode()))))
