"""The link protocol's frames (SPEC.md, part 3) as bytes and back, the routing hash and the proofs.

A frame is a dict: "type" by name, "flags", "aux", "connection", and the fields of its payload.
"""

import hashlib
import hmac
import ipaddress
import re
import struct

VERSION = 1
HEADER_BYTES = 16
EDGE_HEADER_BYTES = 4
HANDSHAKE_BYTES_MAX = 256  # the longest payload in a handshake
HELLO_LAYOUT = ">BBHHH16s16s16sQIIIIIII"
WELCOME_LAYOUT = ">BBHI16s16sQI"
WELCOME_PROVEN_BYTES = struct.calcsize(WELCOME_LAYOUT)  # what proofs cover of LINK_WELCOME
NO_INSTANCE = bytes(16)
FLAG_RESENT, FLAG_ALL, FLAG_TEXT, FLAG_DIRECT = 0x01, 0x02, 0x04, 0x10
SHARDS_MAX, FRAME_BYTES_LIMIT = 256, 2**24 - 1
KEY_BYTES_MAX, TOKEN_BYTES_MAX, META_BYTES_MAX = 256, 4096, 8192
EDGE, WEBSOCKET, MQTT, FRAMES = range(4)  # how a client frames what it says
SUBPROTOCOL = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
CLOSE_TEXT_BYTES_MAX, CLOSE_CODES = 117, range(4000, 5000)
# What LINK_HELLO states besides who the gateway is and where the session stands.
STATED = ("capabilities", "link_failover_ms", "link_keepalive_ms", "idle_timeout_ms", "messages_per_s_max")

TYPES = {
    1: "LINK_HELLO", 2: "LINK_WELCOME", 3: "LINK_PROOF", 4: "LINK_REFUSE", 5: "ACK", 6: "PING",
    7: "PONG", 8: "DRAINING", 16: "OPEN", 17: "ACCEPT", 18: "REJECT", 19: "DATA", 20: "CLOSED",
    21: "CLOSE", 22: "MULTICAST", 23: "BROADCAST", 24: "REOPEN", 25: "MOVED", 26: "RELAY",
}
CODES = {name: code for code, name in TYPES.items()}
REFUSALS = {1: "version", 2: "a secret is required", 3: "the secrets differ", 4: "malformed",
            5: "linked under another name already"}
REASON_MOVED = 25


class LinkError(Exception):
    """A frame that breaks the protocol; args[0] names the error."""


def is_sequenced(kind):
    """Whether frames of this type are counted, kept until acknowledged, and sent again."""
    return CODES[kind] >= 16


def payload_bytes_max(frame_bytes_max):
    return 4 + frame_bytes_max + 65536


# --- header ---

def split(data, bytes_max):
    """The first frame's (header, payload bytes), or None while it is not whole."""
    if len(data) < HEADER_BYTES:
        return None
    payload_bytes, code, flags, aux, connection = struct.unpack_from(">IBBHQ", data)
    if code not in TYPES:
        raise LinkError("unknown_type")
    kind = TYPES[code]
    if flags & ~allowed_flags(kind) or flags & FLAG_ALL and flags & FLAG_DIRECT:
        raise LinkError("reserved_flags")
    if payload_bytes > bytes_max:
        raise LinkError("oversize")
    if len(data) < HEADER_BYTES + payload_bytes:
        return None
    header = {"type": kind, "flags": flags, "aux": aux, "connection": connection}
    return header, bytes(data[HEADER_BYTES:HEADER_BYTES + payload_bytes])


def allowed_flags(kind):
    if kind == "BROADCAST":
        return FLAG_ALL | FLAG_TEXT
    if kind in ("DATA", "MULTICAST"):
        return FLAG_RESENT | FLAG_TEXT
    if kind == "RELAY":
        return FLAG_RESENT | FLAG_ALL | FLAG_DIRECT
    return FLAG_RESENT if is_sequenced(kind) else 0


def encode(kind, payload=b"", connection=0, aux=0, flags=0):
    """A whole frame around a payload."""
    return struct.pack(">IBBHQ", len(payload), CODES[kind], flags, aux, connection) + payload


# --- payloads ---

def message(payload):
    """An edge MESSAGE frame, which DATA, MULTICAST and BROADCAST carry verbatim."""
    return b"\x03" + len(payload).to_bytes(3, "big") + payload


def encode_frame(frame):
    """A whole frame from its dict."""
    kind, aux = frame["type"], frame["aux"]
    if kind == "LINK_HELLO":
        payload = struct.pack(HELLO_LAYOUT, VERSION, 0, frame["shard"], frame["shards"], 0,
                              frame["gateway"], frame["nonce"], frame["expected_worker"],
                              frame["received_position"], frame["window_bytes"], frame["frame_bytes_max"],
                              *(frame[name] for name in STATED))
    elif kind == "LINK_WELCOME":
        payload = encode_welcome_proven(frame) + encode_proof(frame["proof"])
    elif kind == "LINK_PROOF":
        payload = encode_proof(frame["proof"])
    elif kind == "LINK_REFUSE":
        payload, aux = b"", frame["refusal"]
    elif kind == "ACK":
        payload = struct.pack(">Q", frame["position"])
    elif kind in ("PING", "PONG"):
        payload = frame["payload"]
    elif kind == "OPEN":
        payload = struct.pack(">QB", frame["routing_hash"], frame["framing"]) + encode_peer(frame["peer"])
        payload += counted(frame["key"]) + counted(frame["token"]) + counted(frame["meta"])
    elif kind == "ACCEPT":
        payload = struct.pack(">Q", frame["session"])
        if frame.get("routing_hash") is not None:
            payload += struct.pack(">Q", frame["routing_hash"])
            if frame.get("subprotocol") is not None:
                payload += counted(frame["subprotocol"].encode())
    elif kind in ("REJECT", "CLOSE"):
        payload = struct.pack(">I", frame["retry_after_ms"])
        code, text = frame.get("code", 0), frame.get("text", "").encode()
        if code or text:
            payload += struct.pack(">H", code) + text
    elif kind in ("DATA", "BROADCAST"):
        payload = message(frame["message"])
    elif kind == "MULTICAST":
        ids = frame["ids"]
        payload = struct.pack(f">I{len(ids)}Q", len(ids), *ids) + message(frame["message"])
    elif kind == "REOPEN":
        payload = struct.pack(">QQB", frame["routing_hash"], frame["session"], frame["framing"])
    elif kind == "RELAY":
        payload = struct.pack(">Q", frame["routing_hash"]) + frame["payload"]
    else:  # DRAINING, CLOSED, MOVED
        payload = b""
    return encode(kind, payload, frame["connection"], aux, frame["flags"])


def decode_frame(header, payload, frame_bytes_max):
    """The frame's dict, from what split gave; raises LinkError unless it follows its layout."""
    kind, frame = header["type"], dict(header)
    if kind == "LINK_HELLO":
        check_version(payload)
        flags = payload[1] if len(payload) > 1 else 0
        if flags:
            raise LinkError("reserved_flags")
        (_, _, frame["shard"], frame["shards"], zero, frame["gateway"], frame["nonce"],
         frame["expected_worker"], frame["received_position"], frame["window_bytes"],
         frame["frame_bytes_max"], *stated) = unpack(HELLO_LAYOUT, payload)
        frame.update(zip(STATED, stated))
        check(zero == 0 and frame["gateway"] != NO_INSTANCE)
        check(frame["shard"] < frame["shards"] <= SHARDS_MAX)
        check(frame["frame_bytes_max"] <= FRAME_BYTES_LIMIT)
    elif kind == "LINK_WELCOME":
        check_version(payload)
        if len(payload) > 1 and payload[1] & ~1:
            raise LinkError("reserved_flags")
        (_, flags, zero, frame["window_bytes"], frame["worker"], frame["nonce"],
         frame["received_position"], frame["capabilities"]) = unpack(WELCOME_LAYOUT,
                                                                     payload[:WELCOME_PROVEN_BYTES])
        frame["resumed"] = flags == 1
        frame["proof"] = decode_proof(payload[WELCOME_PROVEN_BYTES:])
        check(zero == 0 and frame["window_bytes"] > 0 and frame["worker"] != NO_INSTANCE)
        check(frame["resumed"] or frame["received_position"] == 0)
    elif kind == "LINK_PROOF":
        frame["proof"] = decode_proof(payload)
    elif kind == "LINK_REFUSE":
        check(not payload)
        frame["refusal"] = header["aux"] if header["aux"] in REFUSALS else 4
    elif kind == "ACK":
        (frame["position"],) = unpack(">Q", payload)
    elif kind in ("PING", "PONG"):
        check(len(payload) <= 8)
        frame["payload"] = payload
    elif kind == "OPEN":
        frame["routing_hash"], frame["framing"] = unpack(">QB", payload[:9])
        check(frame["framing"] <= FRAMES)
        frame["peer"], rest = split_peer(payload[9:])
        frame["key"], rest = split_counted(rest, KEY_BYTES_MAX)
        frame["token"], rest = split_counted(rest, TOKEN_BYTES_MAX)
        frame["meta"], rest = split_counted(rest, META_BYTES_MAX)
        check(not rest)
    elif kind == "ACCEPT":
        frame["routing_hash"] = frame["subprotocol"] = None
        (frame["session"],) = unpack(">Q", payload[:8])
        if len(payload) > 8:
            (frame["routing_hash"],) = unpack(">Q", payload[8:16])
        if len(payload) > 16:
            subprotocol, rest = split_counted(payload[16:], 64)
            check(SUBPROTOCOL.fullmatch(subprotocol) and not rest)
            frame["subprotocol"] = subprotocol.decode()
    elif kind in ("REJECT", "CLOSE"):
        (frame["retry_after_ms"],) = unpack(">I", payload[:4] or bytes(4))
        (frame["code"],) = unpack(">H", payload[4:6] or bytes(2))
        check(frame["code"] in (0, *CLOSE_CODES) and len(payload) <= 6 + CLOSE_TEXT_BYTES_MAX)
        frame["text"] = decode_text(payload[6:])
    elif kind in ("DATA", "BROADCAST"):
        frame["message"] = decode_message(payload, frame_bytes_max)
    elif kind == "MULTICAST":
        (count,) = unpack(">I", payload[:4])
        check(len(payload) >= 4 + 8 * count)
        frame["ids"] = list(struct.unpack_from(f">{count}Q", payload, 4))
        frame["message"] = decode_message(payload[4 + 8 * count:], frame_bytes_max)
    elif kind == "REOPEN":
        frame["routing_hash"], frame["session"], frame["framing"] = unpack(">QQB", payload)
        check(frame["framing"] <= FRAMES)
    elif kind == "RELAY":
        (frame["routing_hash"],) = unpack(">Q", payload[:8])
        frame["payload"] = payload[8:]
    else:  # DRAINING, CLOSED, MOVED
        check(not payload)
    return frame


def encode_welcome_proven(frame):
    """LINK_WELCOME's payload up to the proof: what proofs cover."""
    return struct.pack(WELCOME_LAYOUT, VERSION, 1 if frame["resumed"] else 0, 0, frame["window_bytes"],
                       frame["worker"], frame["nonce"], frame["received_position"], frame["capabilities"])


def decode_text(data):
    """UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise LinkError("malformed") from None


def decode_message(data, frame_bytes_max):
    """The payload of exactly one whole edge MESSAGE."""
    check(len(data) >= EDGE_HEADER_BYTES and data[0] == 3)
    payload_bytes = int.from_bytes(data[1:EDGE_HEADER_BYTES], "big")
    check(payload_bytes <= frame_bytes_max and len(data) == EDGE_HEADER_BYTES + payload_bytes)
    return data[EDGE_HEADER_BYTES:]


def encode_proof(proof):
    return b"\x00" if proof is None else bytes([len(proof)]) + proof


def decode_proof(data):
    check(data and data[0] in (0, 32) and len(data) == 1 + data[0])
    return data[1:] or None


def encode_peer(peer):
    """None, or (address, port)."""
    if peer is None:
        return b"\x00"
    address = ipaddress.ip_address(peer[0])
    return bytes([address.version]) + address.packed + struct.pack(">H", peer[1])


def split_peer(data):
    check(data and data[0] in (0, 4, 6))
    if data[0] == 0:
        return None, data[1:]
    end = 1 + {4: 4, 6: 16}[data[0]]
    check(len(data) >= end + 2)
    address = str(ipaddress.ip_address(data[1:end]))
    return (address, int.from_bytes(data[end:end + 2], "big")), data[end + 2:]


def counted(field):
    return struct.pack(">H", len(field)) + field


def split_counted(data, bytes_max):
    check(len(data) >= 2)
    end = 2 + int.from_bytes(data[:2], "big")
    check(len(data) >= end and end - 2 <= bytes_max)
    return data[2:end], data[end:]


def unpack(layout, data):
    check(len(data) == struct.calcsize(layout))
    return struct.unpack(layout, data)


def check_version(payload):
    check(payload)
    if payload[0] != VERSION:
        raise LinkError("version")


def check(condition):
    if not condition:
        raise LinkError("malformed")


# --- routing and proofs ---

U64 = 2**64 - 1
PARTITIONS = 16_384


def mix(x):
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9 & U64
    x = (x ^ x >> 27) * 0x94d049bb133111eb & U64
    return x ^ x >> 31


def fnv1a_32(data):
    value = 0x811c9dc5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xffffffff
    return value


def fnv1a_64(data):
    value = 0xcbf29ce484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001b3 & U64
    return value


def partition(key):
    """The partition of a key, 0 to 16,383: what nats-server's {{partition(16384,1)}} computes, too."""
    return fnv1a_32(key) % PARTITIONS


def partition_of(routing_hash):
    """The partition that a routing hash states: its top 14 bits."""
    return routing_hash >> 50


def routing_hash(key):
    return partition(key) << 50 | mix(fnv1a_64(key)) >> 14


def worker_hash(name):
    return mix(fnv1a_64(name.encode()))


def weight(partition, worker_hash):
    return mix(mix(partition + 1) ^ worker_hash)


def rendezvous(partition, names):
    """The worker, of these that are up, that owns a partition; None if there is none."""
    return max(names, key=lambda name: weight(partition, worker_hash(name)), default=None)


def owner(key, names):
    """The worker, of these that are up, that a key belongs to; None if there is none."""
    return rendezvous(partition(key), names)


def prove(secret, side, hello, welcome):
    """The proof of "worker" or "gateway" over LINK_HELLO's payload and LINK_WELCOME's proven part."""
    label = b"roost-link-v1 " + side.encode()
    return hmac.new(secret, label + hello + welcome, hashlib.sha256).digest()


def verify(secret, side, hello, welcome, proof):
    return hmac.compare_digest(prove(secret, side, hello, welcome), proof)
