"""The edge protocol's frames (SPEC.md, part 1) as bytes and back.

A frame is a dict: its "type" by name, and the fields of that type.
"""

import struct

VERSION = 1
HEADER_BYTES = 4
FRAME_BYTES_MAX = 65536  # until WELCOME says otherwise
KEY_BYTES_MAX, TOKEN_BYTES_MAX, ALTERNATIVE_BYTES_MAX = 256, 4096, 256
CLOSE_TEXT_BYTES_MAX, CLOSE_CODES = 117, range(4000, 5000)

TYPES = {1: "HELLO", 2: "WELCOME", 3: "MESSAGE", 4: "PING", 5: "PONG", 6: "GOAWAY", 7: "CLOSE"}
CODES = {name: code for code, name in TYPES.items()}
# The longest payload of each type; MESSAGE's is stated in WELCOME.
PAYLOAD_BYTES_MAX = {"HELLO": 4358, "WELCOME": 26, "PING": 8, "PONG": 8, "GOAWAY": 385, "CLOSE": 1}

REASONS = dict(enumerate((
    "client_closed client_eof client_reset client_vanished handshake_timeout idle_timeout "
    "frame_timeout unknown_type oversize reserved_bits malformed version unexpected_frame "
    "slow_consumer rate_limited full per_ip_limit accept_ramp no_worker worker_rejected "
    "worker_closed drain memory_budget proxy_header moved admin_closed write_error internal"
).split(), start=1))
REASON_CODES = {label: code for code, label in REASONS.items()}


class FrameError(Exception):
    """A frame that breaks the protocol; args[0] is the close reason."""


def encode(frame):
    """The whole frame, header included."""
    kind = frame["type"]
    if kind == "HELLO":
        payload = struct.pack(">BB", VERSION, 0) + counted(frame["key"]) + counted(frame["token"])
    elif kind == "WELCOME":
        payload = struct.pack(">BBIIIIQ", VERSION, 0, frame["heartbeat_interval_ms"],
                              frame["idle_timeout_ms"], frame["frame_bytes_max"],
                              frame["messages_per_s_max"], frame["session"])
    elif kind == "GOAWAY":
        payload = struct.pack(">BBIH", REASON_CODES[frame["reason"]], 0, frame["retry_after_ms"],
                              frame["code"])
        payload += counted(frame["alternative"]) + counted(frame["text"].encode())
    elif kind == "CLOSE":
        payload = b"" if frame["code"] is None else bytes([frame["code"]])
    else:
        payload = frame["payload"]
    return bytes([CODES[kind]]) + len(payload).to_bytes(3, "big") + payload


def decode_payload(kind, payload):
    """The frame of this type with this payload."""
    frame = {"type": kind}
    if kind == "HELLO":
        check_version(payload)
        frame["key"], rest = split_counted(payload[2:], KEY_BYTES_MAX)
        frame["token"], rest = split_counted(rest, TOKEN_BYTES_MAX)
        if rest:
            raise FrameError("malformed")
    elif kind == "WELCOME":
        check_version(payload)
        if len(payload) != 26:
            raise FrameError("malformed")
        (frame["heartbeat_interval_ms"], frame["idle_timeout_ms"], frame["frame_bytes_max"],
         frame["messages_per_s_max"], frame["session"]) = struct.unpack(">IIIIQ", payload[2:])
    elif kind == "GOAWAY":
        if len(payload) >= 2 and payload[1] != 0:
            raise FrameError("reserved_bits")
        if len(payload) < 12:
            raise FrameError("malformed")
        # Later versions of the protocol may know more reasons.
        frame["reason"] = REASONS.get(payload[0], "internal")
        frame["retry_after_ms"], frame["code"] = struct.unpack_from(">IH", payload, 2)
        frame["alternative"], rest = split_counted(payload[8:], ALTERNATIVE_BYTES_MAX)
        text, rest = split_counted(rest, CLOSE_TEXT_BYTES_MAX)
        if rest or (frame["code"] and frame["code"] not in CLOSE_CODES):
            raise FrameError("malformed")
        try:
            frame["text"] = text.decode()
        except UnicodeDecodeError:
            raise FrameError("malformed") from None
    elif kind == "CLOSE":
        frame["code"] = payload[0] if payload else None
    else:
        frame["payload"] = payload
    return frame


class Decoder:
    """Cuts a stream of bytes into frames, wherever TCP may have split it."""

    def __init__(self, frame_bytes_max=FRAME_BYTES_MAX):
        self.frame_bytes_max = frame_bytes_max
        self.rest = bytearray()

    def feed(self, data):
        """Takes what was received; yields (type, payload) of each frame that is whole now."""
        self.rest += data
        at = 0
        try:
            while True:
                kind, payload_bytes = self.check_header(at)
                if payload_bytes is None or len(self.rest) < at + HEADER_BYTES + payload_bytes:
                    return
                begin, at = at + HEADER_BYTES, at + HEADER_BYTES + payload_bytes
                yield kind, bytes(self.rest[begin:at])
        finally:
            del self.rest[:at]

    def check_header(self, at):
        """Type and payload length of the frame that begins here, as far as they are known."""
        if len(self.rest) == at:
            return None, None
        code = self.rest[at]
        if code & 0xe0:
            raise FrameError("reserved_bits")
        if code not in TYPES:
            raise FrameError("unknown_type")
        if len(self.rest) < at + HEADER_BYTES:
            return TYPES[code], None
        payload_bytes = int.from_bytes(self.rest[at + 1:at + HEADER_BYTES], "big")
        if payload_bytes > PAYLOAD_BYTES_MAX.get(TYPES[code], self.frame_bytes_max):
            raise FrameError("oversize")
        return TYPES[code], payload_bytes


def counted(field):
    return struct.pack(">H", len(field)) + field


def split_counted(data, bytes_max):
    """A u16 length and that many bytes, and what follows them."""
    if len(data) < 2:
        raise FrameError("malformed")
    end = 2 + int.from_bytes(data[:2], "big")
    if len(data) < end or end - 2 > bytes_max:
        raise FrameError("malformed")
    return data[2:end], data[end:]


def check_version(payload):
    """Version and flags, with which HELLO and WELCOME begin."""
    if not payload:
        raise FrameError("malformed")
    if payload[0] != VERSION:
        raise FrameError("version")
    if len(payload) < 2:
        raise FrameError("malformed")
    if payload[1] != 0:
        raise FrameError("reserved_bits")
