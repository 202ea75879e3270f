"""What a worker refuses on a link that is up."""

import struct

from . import link
from .report import judges


def bad_frames():
    """(number, frames, what is wrong): after each the worker closes the TCP connection."""
    both = link.message(b"a") + link.message(b"b")
    ack9 = link.frame(link.ACK, bytes(7))
    hash_ = link.routing_hash(b"k")
    yield "L-5", link.data(link.ID[1], b"x", flags=0x80), "an undefined flag"
    yield "L-5", link.data(link.ID[1], b"x", flags=link.DEFLATED), "DEFLATED"
    yield "L-5", link.data(link.ID[1], b"x", flags=link.ALL), "ALL on DATA"
    yield "L-5", link.frame(link.RELAY, struct.pack(">Q", hash_), 1, flags=link.ALL | link.DIRECT), "ALL and DIRECT"
    yield "L-5", link.frame(link.PING, flags=link.RESENT), "RESENT on PING"
    yield "L-121", link.frame(9), "type 9"
    yield "L-121", link.frame(27), "type 27"
    yield "L-121", link.frame(link.ACCEPT, bytes(8), link.ID[1]), "ACCEPT by a gateway"
    yield "L-121", link.frame(link.DRAINING), "DRAINING by a gateway"
    yield "L-121", link.frame(link.MULTICAST, bytes(4) + link.message(b"")), "MULTICAST by a gateway"
    yield "L-121", link.frame(link.LINK_HELLO, link.hello()), "a second LINK_HELLO"
    yield "L-33", link.frame(link.LINK_REFUSE, aux=4), "LINK_REFUSE on a link that is up"
    yield "L-2", struct.pack(">IBBHQ", 4 + 65_536 + 65_536 + 1, link.DATA, 0, 0, 1), "a payload over the limit"
    yield "L-122", link.frame(link.PING, bytes(9)), "PING of 9 bytes"
    yield "L-122", link.frame(link.PONG, bytes(9)), "PONG of 9 bytes"
    yield "L-123", ack9, "ACK of 7 bytes"
    yield "L-64", link.ack(1 << 40), "ACK of what was never sent"
    yield "L-124", link.frame(link.REOPEN, bytes(16), link.ID[9]), "REOPEN of 16 bytes"
    yield "L-124", link.frame(link.REOPEN, bytes(16) + b"\x04", link.ID[9]), "REOPEN with framing 4"
    yield "L-125", link.frame(link.CLOSED, b"x", link.ID[1], aux=1), "CLOSED with a payload"
    yield "L-126", link.frame(link.DATA, both, link.ID[1]), "DATA of two messages"
    yield "L-126", link.frame(link.DATA, link.message(b"abc")[:-1], link.ID[1]), "DATA of half a message"
    yield "L-126", link.frame(link.DATA, b"\x04\0\0\0", link.ID[1]), "DATA of a PING"
    yield "L-127", link.frame(link.RELAY, bytes(7)), "RELAY of 7 bytes"
    yield "L-89", link.open_(link.ID[9], framing=4), "OPEN with framing 4"
    yield "L-89", link.open_(link.ID[9])[:4] + link.open_(link.ID[9])[4:24] + b"\0\x05" + link.open_(link.ID[9])[26:], "OPEN with family 5"
    yield "L-89", link.frame(link.OPEN, link.open_(link.ID[9])[16:] + b"\0", link.ID[9]), "bytes behind the meta"
    yield "L-89", link.open_(link.ID[9], key=bytes(257)), "a key of 257 bytes"
    yield "L-89", link.open_(link.ID[9], meta=bytes(8193)), "meta of 8193 bytes"


@judges("L-5", "L-121", "L-122", "L-123", "L-64", "L-124", "L-125", "L-126", "L-127", "L-89", "L-33", "L-128")
def errors(report, peer):
    gateway = peer.gateway(report)
    gateway.connect()
    gateway.accepted(link.ID[1])
    gateway.ack()
    for number, frame, what in bad_frames():
        gateway.link.conn.send(link.data(link.ID[1], b"before"))
        gateway.sent.append(link.data(link.ID[1], b"before"))
        gateway.link.conn.send(frame)
        report.check(number, closes(gateway), f"{what} ends the TCP connection")
        gateway.cut()
        gateway.connect()
        report.check("L-128", bool(gateway.link.fields["flags"]), f"the session goes on after {what}")
    gateway.link.drain()
    gateway.ack()
    gateway.echoed(link.ID[1], b"and goes on", "L-128")
    gateway.end()


def closes(gateway):
    """Whether the worker ends the connection; what it says until then is counted."""
    for _ in range(150):
        if gateway.link.frame(0.1) is None and gateway.link.conn.ended:
            return True
    return False


SCENARIOS = (errors,)
