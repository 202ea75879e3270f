"""The mode `worker`: plays gateways against a worker that accepts everybody and echoes."""

import os
import time

from . import link, worker_errors
from .net import Failure
from .report import judges
from .session import Gateway, LONG, SHORT


@judges("L-27", "L-13", "L-14", "L-29", "L-40", "L-39", "L-42", "L-115", "L-43", "L-28", "L-30")
def handshake(report, peer):
    gateway = peer.gateway(report)
    instances, nonces = set(), set()
    for capabilities in (0, 0x8000_0002):
        new = gateway.say_hello(capabilities=capabilities)
        fields = gateway.read_welcome(new)
        report.check("L-27", True, "LINK_WELCOME has its layout")
        report.check("L-29", fields["capabilities"] == 0, f"capabilities {fields['capabilities']:#x}")
        report.check("L-52", not fields["flags"], "a new session is not resumed")
        instances.add(fields["worker"])
        nonces.add(fields["nonce"])
        if peer.secret:
            right = link.proof(peer.secret, b"worker", new.hello, new.proven)
            report.need("L-39", fields["proof"] == right, "the worker's proof is right")
        else:
            report.check("L-40", fields["proof"] is None, "without a secret there is no proof")
        report.check("L-13", new.conn.receive(SHORT) is None, "nothing comes before LINK_PROOF")
        # Without a secret here, a proof is ignored.
        gateway.give_proof(new, None if peer.secret else bytes(32))
        gateway.go_up(new)
        if not peer.secret:
            report.check("L-43", True, "a proof that cannot be looked at is ignored")
        report.check("L-28", True, f"capabilities {capabilities:#x} are taken")
        report.check("L-30", True, "LINK_PROOF is taken")
        pong = new.expect("L-115", link.PONG)
        report.check("L-115", pong.payload == b"", "PING is answered with its payload")
        new.conn.send(link.frame(link.PING, b"12345678"))
        report.check("L-115", new.expect("L-115", link.PONG).payload == b"12345678", "8 bytes come back")
        gateway.end()
        gateway.forget()
    report.check("L-27", len(instances) == 1, "the instance is the same on every link")
    report.check("L-27", len(nonces) == 2, "the nonce is fresh on every TCP connection")


@judges("L-31", "L-32", "L-35", "L-12", "L-25", "L-8", "L-42", "L-39")
def refusals(report, peer):
    old = link.hello()[:72]
    cases = [
        ("L-31", link.frame(link.LINK_HELLO, link.hello(version=2)), 1, "version 2"),
        ("L-31", link.frame(link.LINK_HELLO, b"\x02" + bytes(71)), 1, "version 2 of another length"),
        ("L-35", link.frame(link.LINK_HELLO, old), 4, "LINK_HELLO of 72 bytes"),
        ("L-31", link.frame(link.LINK_HELLO, link.hello() + b"\0"), 4, "LINK_HELLO of 93 bytes"),
        ("L-31", link.frame(link.LINK_HELLO, link.hello(flags=1)), 4, "flags"),
        ("L-31", link.frame(link.LINK_HELLO, link.hello(zero=1)), 4, "bytes that must be zero"),
        ("L-31", link.frame(link.LINK_HELLO, link.hello(shard=1, shards=1)), 4, "shard 1 of 1"),
        ("L-31", link.frame(link.LINK_HELLO, link.hello(shards=257)), 4, "257 shards"),
        ("L-31", link.frame(link.LINK_HELLO, link.hello(gateway=link.NONE)), 4, "no instance"),
        ("L-31", link.frame(link.LINK_HELLO, link.hello(window_bytes=65_567)), 4, "a window too small"),
        ("L-31", link.frame(link.LINK_HELLO, link.hello(frame_bytes_max=1 << 24)), 4, "frame_bytes_max of 2^24"),
        ("L-12", link.frame(link.PING), 4, "PING before LINK_HELLO"),
        ("L-12", link.frame(link.LINK_HELLO, link.hello(), flags=1), 4, "flags of the header"),
    ]
    for number, sent, code, what in cases:
        new = peer.gateway(report).dial()
        new.conn.send(sent)
        refused(report, new, number, code, what)
    cases = [("L-12", link.frame(link.LINK_PROOF, b"\x05abcde"), 4, "a proof of 5 bytes"),
             ("L-12", link.frame(link.PING), 4, "PING in place of LINK_PROOF")]
    if peer.secret:
        cases += [("L-39", link.proof_frame(bytes(32)), 3, "a wrong proof"),
                  ("L-42", link.proof_frame(None), 2, "no proof")]
    for number, sent, code, what in cases:
        gateway = peer.gateway(report)
        new = gateway.say_hello()
        gateway.read_welcome(new)
        new.conn.send(sent)
        refused(report, new, number, code, what)


def refused(report, new, number, code, what):
    answer = new.conn.receive(LONG)
    got = None if answer is None else (link.NAMES.get(answer.type), answer.aux)
    report.check(number, got == ("LINK_REFUSE", code), f"{what} is answered by {got or new.conn.ended}, due is {code}")
    if got == ("LINK_REFUSE", code):
        report.check("L-32", new.conn.ends(LONG), f"the connection ends behind LINK_REFUSE ({what})")
    new.conn.close()


@judges("L-45", "L-54", "L-47", "L-46")
def nothing_changes_before_the_proof(report, peer):
    gateway = peer.gateway(report)
    gateway.connect()
    gateway.accepted(link.ID[1])
    stranger = peer.gateway(report, gateway=gateway.fields["gateway"])
    for expected in (link.NONE, gateway.worker):
        new = stranger.say_hello(expected=expected)
        stranger.read_welcome(new)
        if peer.secret:
            new.conn.send(link.proof_frame(bytes(32)))
            new.conn.receive(LONG)
        new.conn.close()
    gateway.echoed(link.ID[1], b"still there", "L-45")
    new = gateway.say_hello()
    report.need("L-45", gateway.read_welcome(new)["flags"] == 1, "the session can still be resumed")
    new.conn.close()
    # Two that both mean to resume: only one may.
    first, second = gateway.say_hello(), gateway.say_hello()
    for new in (first, second):
        report.need("L-47", gateway.read_welcome(new)["flags"] == 1, "LINK_WELCOME says resumed")
    old = gateway.link
    gateway.give_proof(second)
    gateway.go_up(second)
    report.check("L-47", old.conn.ends(LONG), "the older TCP connection of the session is closed")
    gateway.give_proof(first)
    report.check("L-54", first.conn.ends(LONG), "what was answered before the session changed does not hold")
    gateway.echoed(link.ID[1], b"and goes on", "L-47")
    other = peer.gateway(report, gateway=gateway.fields["gateway"], shard=1, shards=2)
    other.connect()
    gateway.echoed(link.ID[1], b"another shard has another session", "L-46")
    other.end()
    gateway.end()


@judges("L-86", "L-85", "L-84", "L-66", "L-62", "L-68", "L-2", "L-61", "L-9", "L-10", "L-107", "L-112", "L-148")
def connections(report, peer):
    gateway = peer.gateway(report)
    gateway.connect()
    gateway.send(link.data(link.ID[99], b"nobody"), link.frame(link.CLOSED, b"", link.ID[98], aux=1))
    gateway.await_ack("L-61")
    report.check("L-84", not gateway.got, "DATA and CLOSED for the unknown are dropped")
    for connection in (link.ID[0], link.ID[1], (1 << 56) - 1):
        gateway.send(link.open_(connection, b"key", b"token"))
        before = gateway.acked_by_worker
        frame = gateway.link.frame(LONG)
        while frame is not None and frame.type not in (link.ACCEPT, link.REJECT):
            before = gateway.acked_by_worker
            frame = gateway.link.frame(LONG)
        report.need("L-85", frame is not None and frame.type == link.ACCEPT, f"OPEN is answered by {frame}")
        report.check("L-68", before < len(gateway.sent), "ACCEPT comes before the ACK of its OPEN")
        report.check("L-10", frame.connection == connection, f"id {frame.connection:#x} of {connection:#x}")
        gateway.echoed(connection, b"hello")
        report.check("L-107", True, "DATA has one whole MESSAGE")
        report.check("L-62", gateway.acked_by_worker < len(gateway.sent), "the echo stands before the ACK")
        gateway.await_ack("L-66")
    for size in (0, 1, 65_536):
        gateway.echoed(link.ID[1], b"x" * size)
    twin = peer.gateway(report)
    twin.connect()
    twin.accepted(link.ID[1])
    gateway.send(link.frame(link.CLOSED, b"", link.ID[1], aux=1))
    twin.echoed(link.ID[1], b"ids are of a gateway", "L-9")
    gateway.send(link.data(link.ID[1], b"too late"))
    gateway.await_ack("L-66")
    report.check("L-84", gateway.got[-1].payload != link.message(b"too late"), "nothing is sent after CLOSED")
    gateway.send(link.frame(link.CLOSED, b"", link.ID[77], aux=25))
    moved = gateway.link.expect("L-112", link.MOVED)
    report.check("L-112", moved.connection == link.ID[77], "CLOSED(moved) of the unknown is answered")
    gateway.send(link.data(link.ID[0], b"before"), link.frame(link.CLOSED, b"", link.ID[0], aux=25))
    frame = gateway.link.expect("L-148", link.DATA)
    report.check("L-88", frame.connection == link.ID[0], "what was sent before CLOSED(moved) is answered before MOVED")
    report.check("L-148", gateway.link.expect("L-148", link.MOVED).connection == link.ID[0], "CLOSED(moved) is answered")
    gateway.send(link.data(link.ID[0], b"behind MOVED"))
    gateway.await_ack("L-66")
    report.check("L-148", gateway.got[-1].type == link.MOVED, "nothing about the connection follows MOVED")
    twin.end()
    gateway.end()


@judges("L-146", "L-145", "L-89", "L-90", "L-169", "L-7")
def openings(report, peer):
    gateway = peer.gateway(report)
    gateway.connect()
    gateway.send(link.reopen(link.ID[5], 0x1234), link.data(link.ID[5], b"reopened", flags=link.RESENT))
    frame = gateway.link.expect("L-146", link.DATA)
    report.check("L-146", frame.connection == link.ID[5] and len(gateway.got) == 1, "REOPEN opens without an answer")
    report.check("L-145", frame.payload == link.message(b"reopened"), "REOPEN of 17 bytes is taken")
    meta = b"path: /chat\r\nhost: example.org\r\n"
    gateway.send(link.open_(link.ID[6], framing=1, meta=meta))
    report.check("L-89", gateway.link.expect("L-89", link.ACCEPT).connection == link.ID[6], "OPEN with framing and meta is taken")
    gateway.send(link.open_(link.ID[7], key=b"k" * 256, token=b"t" * 4096, meta=b"a: b\r\n" + b"x" * 8180 + b"\r\n"))
    report.check("L-90", gateway.link.expect("L-90", link.ACCEPT).connection == link.ID[7], "the longest fields are taken")
    gateway.send(link.data(link.ID[6], b"text", flags=link.TEXT))
    report.check("L-7", gateway.link.expect("L-7", link.DATA).connection == link.ID[6], "DATA with TEXT is taken")
    payload = link.routing_hash(b"k").to_bytes(8, "big") + b"relay"
    gateway.send(link.frame(link.RELAY, payload, connection=0xABCDEF))
    gateway.await_ack("L-66")
    for frame in gateway.got:
        if frame.type == link.RELAY:
            report.check("L-169", frame.flags & link.DIRECT and frame.connection == 0xABCDEF, "RELAY is answered DIRECT")
    gateway.end()


@judges("E-2", "L-120")
def streams(report, peer):
    gateway = peer.gateway(report)
    gateway.connect()
    gateway.sent += [link.open_(link.ID[1]), link.data(link.ID[1], b"cut in pieces")]
    gateway.link.conn.send_bytewise(b"".join(gateway.sent))
    gateway.link.expect("L-120", link.ACCEPT)
    frame = gateway.link.expect("L-120", link.DATA)
    report.check("L-120", frame.payload == link.message(b"cut in pieces"), "frames are the same however TCP cuts them")
    gateway.link.conn.send(link.data(link.ID[1], b"half of it")[:20])
    gateway.link.conn.half_close()
    report.check("L-120", gateway.link.conn.ends(LONG), "the end of our sending side ends the connection")
    gateway.end()


@judges("L-79", "L-81", "L-82", "L-83", "L-70", "L-64", "L-65", "L-78")
def resume_at_every_position(report, peer):
    gateway = peer.gateway(report)
    gateway.connect()
    gateway.send(*[link.open_(link.ID[n]) for n in range(3)])
    texts = [b"message %d" % n for n in range(9)]
    gateway.send(*[link.data(link.ID[n % 3], text) for n, text in enumerate(texts)])
    until = time.monotonic() + LONG
    while len(gateway.got) < 12 and time.monotonic() < until:
        gateway.link.frame(0.2)
    report.need("L-86", len(gateway.got) == 12, f"{len(gateway.got)} of 12 answers")
    for received in range(13):
        gateway.cut()
        new = gateway.say_hello(received=received)
        fields = gateway.read_welcome(new)
        report.need("L-47", fields["flags"] == 1, f"position {received} of 12 is resumed")
        stated = fields["received_position"]
        # The answer to frame n is frame n, since each is answered by one, in order.
        report.need("L-79", stated <= received, f"it has {stated} handled where the gateway has {received} answers")
        gateway.give_proof(new)
        gateway.go_up(new)
        until = time.monotonic() + LONG
        while gateway.next < 12 and time.monotonic() < until and not new.conn.ended:
            new.frame(0.2)
        report.need("L-70", gateway.next == 12, f"{12 - gateway.next} frames did not come again from position {received}")
        extra = new.drain(0.1)
        report.need("L-82", not [f for f in extra if f.type >= 16] and len(gateway.got) == 12,
                    "what was handled before is not handled again")
        gateway.ack(received)
        gateway.ack(received)
    report.check("L-65", not gateway.link.conn.ended, "an ACK may be repeated")
    gateway.ack(12)
    gateway.cut()
    # A frame of which a part arrived was not received.
    new = gateway.connect()
    report.check("L-81", True, "positions go on")
    whole = link.data(link.ID[1], b"not whole")
    new.conn.send(whole[:18])
    time.sleep(0.1)
    gateway.cut()
    gateway.connect()
    gateway.echoed(link.ID[1], b"whole", "L-83")
    gateway.end()


@judges("L-48", "L-50", "L-51", "L-53", "L-49")
def other_positions(report, peer):
    gateway = peer.gateway(report)
    gateway.connect()
    gateway.accepted(link.ID[1])
    gateway.cut()
    new = gateway.say_hello(received=50)
    report.check("L-48", gateway.read_welcome(new)["flags"] == 0, "a position that was never sent is not resumed")
    gateway.give_proof(new)
    gateway.go_up(new)
    gateway.send(link.data(link.ID[1], b"of the old session"))
    gateway.await_ack("L-66")
    report.check("L-53", not gateway.got, "the connections of a discarded session are gone")
    gateway.accepted(link.ID[1])
    gateway.cut()
    for number, expected in (("L-50", link.NONE), ("L-50", os.urandom(16))):
        new = gateway.say_hello(received=1, expected=expected)
        report.check(number, gateway.read_welcome(new)["flags"] == 0, "another instance is not resumed")
        new.conn.close()
    stranger = peer.gateway(report)
    new = stranger.say_hello(expected=gateway.worker, received=3)
    report.check("L-49", stranger.read_welcome(new)["flags"] == 0, "what has no session is not resumed")
    new.conn.close()
    gateway.end()


def arrivals(on, silence):
    """The sequenced frames that come until there is silence for so long; the first may take longer."""
    frames, until = [], time.monotonic() + LONG
    while (frame := on.frame(silence if frames else max(until - time.monotonic(), 0.01))) is not None:
        if frame.type >= 16:
            frames.append(frame)
    return frames


@judges("L-71", "L-72", "L-74", "L-77")
def window(report, peer):
    gateway = peer.gateway(report, window_bytes=1_056, frame_bytes_max=1_024)
    gateway.connect()
    gateway.accepted(link.ID[1])
    gateway.ack()
    sizes = [500, 1_024, 10] * 20
    gateway.send(*[link.data(link.ID[1], b"w" * size) for size in sizes])
    acked, seen = len(gateway.got), 0
    while seen < len(sizes):
        frames = arrivals(gateway.link, 0.3 if seen < 6 else 0.05)
        report.need("L-77", frames, f"after {seen} of {len(sizes)} echoes nothing comes within the window")
        outstanding = sum(len(frame.raw) for frame in frames)
        report.need("L-71", outstanding <= 1_056 or len(frames) == 1, f"{outstanding} bytes outstanding of 1056")
        seen += len(frames)
        if seen == len(frames):
            gateway.link.conn.send(link.frame(link.PING, b"w"))
            report.check("L-74", gateway.link.expect("L-74", link.PONG).payload == b"w", "PONG passes a full window")
        gateway.ack()
        acked += len(frames)
    report.check("L-77", True, "all came")
    gateway.end()


@judges("L-158", "L-160", "L-148")
def draining(report, peer):
    if peer.child is None:
        return
    gateway = peer.gateway(report)
    gateway.connect()
    gateway.accepted(link.ID[1])
    gateway.ack()
    peer.child.terminate()
    gateway.link.expect("L-158", link.DRAINING)
    old = gateway.link
    gateway.connect()
    old.conn.close()
    gateway.link.expect("L-158", link.DRAINING)
    report.check("L-158", True, "DRAINING comes again on a new TCP connection, behind its ACK")
    gateway.send(link.frame(link.CLOSED, b"", link.ID[1], aux=25))
    gateway.link.expect("L-148", link.MOVED)
    gateway.ack()
    until = time.monotonic() + 2 * LONG
    while time.monotonic() < until and not gateway.link.conn.ended:
        gateway.link.frame(0.2)
    report.check("L-160", peer.child.ended(LONG) is not None, "without connections it leaves")
    gateway.end()


SCENARIOS = (handshake, refusals, nothing_changes_before_the_proof, connections, openings, streams,
             resume_at_every_position, other_positions, window, *worker_errors.SCENARIOS, draining)


class Peer:
    """The worker under test."""

    def __init__(self, address, secret=None, child=None):
        self.address, self.secret, self.child = address, secret, child

    def gateway(self, report, **hello):
        return Gateway(report, self.address, self.secret, **hello)


def play(report, peer):
    """All scenarios, one after the other. The last one may end the worker."""
    for scenario in SCENARIOS:
        report.run(scenario, peer)
        if peer.child is not None and scenario is not draining and peer.child.ended(0) is not None:
            raise Failure("L-1", f"the worker has ended in {scenario.__name__}")
