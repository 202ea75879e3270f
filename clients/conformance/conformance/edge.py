"""The edge protocol as bytes (SPEC.md, part 1), written from the text alone."""

import struct

HELLO, WELCOME, MESSAGE, PING, PONG, GOAWAY, CLOSE = range(1, 8)
NAMES = {1: "HELLO", 2: "WELCOME", 3: "MESSAGE", 4: "PING", 5: "PONG", 6: "GOAWAY", 7: "CLOSE"}
REASONS = {
    "client_closed": 1, "client_eof": 2, "client_reset": 3, "handshake_timeout": 5, "idle_timeout": 6,
    "frame_timeout": 7, "unknown_type": 8, "oversize": 9, "reserved_bits": 10, "malformed": 11, "version": 12,
    "unexpected_frame": 13, "rate_limited": 15, "full": 16, "no_worker": 19, "worker_rejected": 20,
    "worker_closed": 21, "drain": 22, "moved": 25, "internal": 28,
}


class Malformed(Exception):
    """Bytes that do not follow the text; args[0] says what."""


def frame(code, payload=b""):
    """A whole frame, whatever the code."""
    return bytes([code]) + len(payload).to_bytes(3, "big") + payload


def counted(field):
    return struct.pack(">H", len(field)) + field


def hello(key=b"k", token=b"", version=1, flags=0):
    return frame(HELLO, bytes([version, flags]) + counted(key) + counted(token))


def welcome(heartbeat_ms=60_000, idle_ms=150_000, frame_max=65_536, rate=0, reference=7, version=1):
    return frame(WELCOME, struct.pack(">BBIIIIQ", version, 0, heartbeat_ms, idle_ms, frame_max, rate, reference))


def goaway(reason, retry_ms=0, code=0, alternative=b"", text=b""):
    head = struct.pack(">BBIH", reason, 0, retry_ms, code)
    return frame(GOAWAY, head + counted(alternative) + counted(text))


def take_counted(payload, at, limit, what):
    if len(payload) < at + 2:
        raise Malformed(f"{what} is cut short")
    length = int.from_bytes(payload[at:at + 2], "big")
    if length > limit or len(payload) < at + 2 + length:
        raise Malformed(f"{what} of {length} bytes")
    return payload[at + 2:at + 2 + length], at + 2 + length


def parse_hello(payload):
    """(key, token); what is wrong is raised."""
    if payload[:1] != b"\x01" or payload[1:2] != b"\x00":
        raise Malformed(f"version and flags are {payload[:2].hex()}")
    key, at = take_counted(payload, 2, 256, "key")
    token, at = take_counted(payload, at, 4096, "token")
    if at != len(payload):
        raise Malformed("bytes behind the token")
    return key, token


def parse_welcome(payload):
    if len(payload) != 26:
        raise Malformed(f"WELCOME of {len(payload)} bytes")
    names = ("version", "flags", "heartbeat_interval_ms", "idle_timeout_ms", "frame_bytes_max", "messages_per_s_max",
             "reference")
    fields = dict(zip(names, struct.unpack(">BBIIIIQ", payload)))
    if fields["version"] != 1 or fields["flags"] != 0:
        raise Malformed(f"WELCOME of version {fields['version']}, flags {fields['flags']}")
    return fields


def parse_goaway(payload):
    if len(payload) < 12:
        raise Malformed(f"GOAWAY of {len(payload)} bytes")
    reason, zero, retry_ms, code = struct.unpack(">BBIH", payload[:8])
    alternative, at = take_counted(payload, 8, 256, "alternative")
    text, at = take_counted(payload, at, 117, "text")
    if zero or at != len(payload) or not (code == 0 or 4000 <= code <= 4999):
        raise Malformed("GOAWAY does not follow its layout")
    return {"reason": reason, "retry_after_ms": retry_ms, "code": code, "alternative": alternative,
            "text": text.decode("utf-8")}


def split(buffer):
    """(code, payload, rest) of the first frame, or none if it is not whole."""
    if len(buffer) < 4:
        return None
    end = 4 + int.from_bytes(buffer[1:4], "big")
    if len(buffer) < end:
        return None
    return buffer[0], bytes(buffer[4:end]), buffer[end:]
