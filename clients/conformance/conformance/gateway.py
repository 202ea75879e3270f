"""The mode `gateway`: plays clients and two workers, `a` and `b`, against a gateway of one shard."""

import struct

from . import edge, link
from .edge import REASONS
from .net import Child, Failure, free_address, pair, wait_for
from .report import judges
from .workers import Client, Worker, session


@judges("L-25", "L-31", "L-35", "L-57", "L-26", "L-15", "L-18", "L-13", "L-30")
def handshakes(report, run):
    """Refusals first; the last dial comes up."""
    proven = link.welcome()
    cases = [("L-31", proven[:1] + b"\x04" + proven[2:] + b"\0", 4, "undefined flags"),
             ("L-31", b"\x02" + proven[1:] + b"\0", 1, "version 2"),
             ("L-35", proven[:48] + b"\0", 4, "LINK_WELCOME of 49 bytes"),
             ("L-57", link.welcome(flags=1) + b"\0", 4, "resumed where no session was")]
    instances, nonces = set(), set()
    for number, payload, code, what in cases:
        conn, _, hello = run.a.accept()
        instances.add(hello["gateway"])
        nonces.add(hello["nonce"])
        conn.send(link.frame(link.LINK_WELCOME, payload))
        answer = conn.receive(5)
        got = answer and (link.NAMES.get(answer.type), answer.aux)
        report.check(number, got == ("LINK_REFUSE", code), f"{what} is answered by {got or conn.ended}, due is {code}")
        conn.close()
    conn, payload, hello = run.a.accept()
    instances.add(hello["gateway"])
    nonces.add(hello["nonce"])
    report.check("L-26", len(instances) == 1 and len(nonces) == len(cases) + 1, "one instance, and a nonce for each dial")
    fine = (hello["version"] == 1 and not hello["flags"] and not hello["zero"] and hello["shard"] < hello["shards"]
            and hello["window_bytes"] >= hello["frame_bytes_max"] + 32 and hello["link_failover_ms"] > 0)
    report.check("L-25", fine, f"LINK_HELLO states {hello}")
    report.check("L-29", hello["capabilities"] == 0, f"capabilities {hello['capabilities']:#x}")
    report.check("L-51", hello["expected_worker"] == link.NONE, "the first session is asked for by zero")
    run.a.greet(conn, payload, capabilities=0x80000000)
    report.check("L-28", True, "unknown capabilities are ignored")
    ping = conn.receive(2)
    report.check("L-15", ping and ping.type == link.PING, "PING follows LINK_PROOF")
    report.check("L-18", conn.receive(0.3) is None, "nothing more comes before the worker's first frame")
    conn.send(link.ack(0))
    run.a.conn, run.a.next, run.hello = conn, 0, hello


@judges("E-32", "L-89", "L-92", "L-91", "E-12", "E-13", "E-15", "E-40", "L-110", "E-78", "E-79")
def life(report, run):
    client = Client(run.clients, b"alice", b"secret token")
    frame = run.a.expect("E-30", link.OPEN)
    try:
        opened = link.parse_open(frame.payload)
    except edge.Malformed as error:
        raise Failure("L-89", str(error)) from None
    report.check("L-89", opened["framing"] == 0, "OPEN has its layout")
    report.check("L-90", opened["meta"] == b"", "meta is empty for the plain edge protocol")
    report.check("E-11", opened["key"] == b"alice", "the key arrives")
    report.check("E-12", opened["token"] == b"secret token", "the token arrives unread")
    report.check("R-1", opened["routing_hash"] == link.routing_hash(b"alice"), "the routing hash is that of part 2")
    report.check("L-92", opened["routing_hash"] == link.routing_hash(b"alice"), "OPEN states it")
    own = client.conn.sock.getsockname()
    stated = bytes(map(int, own[0].split("."))) + struct.pack(">H", own[1])
    report.check("L-91", opened["family"] == 4 and opened["address"] == stated, "OPEN has the client's address and port")
    report.check("E-31", client.conn.receive(0.3) is None, "WELCOME waits for ACCEPT")
    client.conn.send(edge.frame(edge.PING, b"opening"))
    report.check("E-31", client.expect("E-31", edge.PONG) == b"opening", "PING is answered while opening")
    run.a.send(link.frame(link.ACCEPT, struct.pack(">Q", 0x0123456789ABCDEF), frame.connection))
    fields = edge.parse_welcome(client.expect("E-13", edge.WELCOME))
    same = [fields[name] == run.hello[name] for name in ("frame_bytes_max", "idle_timeout_ms", "messages_per_s_max")]
    report.check("E-13", all(same) and fields["reference"] == 0x0123456789ABCDEF, f"WELCOME states {fields}")
    beat, idle = fields["heartbeat_interval_ms"], fields["idle_timeout_ms"]
    report.check("E-42", idle == 0 or (beat > 0 and idle >= 2 * beat), f"heartbeat {beat} ms, idle {idle} ms")
    for size in (0, 5, fields["frame_bytes_max"]):
        client.conn.send(edge.frame(edge.MESSAGE, b"m" * size) + edge.frame(edge.PING, b"p") + edge.frame(edge.PONG))
        data = run.a.expect("E-15", link.DATA)
        report.check("E-15", data.payload == link.message(b"m" * size) and data.connection == frame.connection,
                     "MESSAGE arrives whole and in order")
        report.check("E-17", client.expect("E-17", edge.PONG) == b"p", "PING is answered")
        run.a.send(link.data(frame.connection, b"r" * size, flags=link.TEXT))
        report.check("E-32", client.expect("E-32", edge.MESSAGE) == b"r" * size, "DATA arrives as MESSAGE")
    report.check("E-40", run.a.frame(0.2) is None, "no worker hears of PING")
    report.check("L-7", True, "TEXT is ignored for the edge protocol")
    for piece in (edge.frame(edge.MESSAGE, b"in pieces"),):
        client.conn.send_bytewise(piece)
        report.check("E-2", run.a.expect("E-2", link.DATA).payload == link.message(b"in pieces"), "pieces make a frame")
    client.conn.send(edge.frame(edge.MESSAGE, b"last") + edge.frame(edge.CLOSE, b"\x07") + edge.frame(edge.MESSAGE, b"late"))
    report.check("E-77", run.a.expect("E-77", link.DATA).payload == link.message(b"last"), "frames before CLOSE go first")
    closed = run.a.expect("L-110", link.CLOSED)
    report.check("L-110", closed.aux == 1 and closed.connection == frame.connection, f"CLOSED says {closed.aux}")
    report.check("E-78", client.conn.receive(5) is None and client.conn.ended == "FIN", "FIN, and no GOAWAY")
    report.check("E-79", True, "FIN came after all was handed on")
    client.conn.close()
    run.a.send(link.data(frame.connection, b"nobody") )
    report.check("L-111", run.a.frame(0.3) is None, "CLOSED comes once, and nothing behind it")


def handshake_errors():
    """(number, bytes, reason) of a client that has said nothing yet."""
    yield "E-48", b"\x81\0\0\0", "reserved_bits"
    yield "E-48", edge.hello(flags=1), "reserved_bits"
    yield "E-49", b"\0", "unknown_type"
    yield "E-49", b"\x1f", "unknown_type"
    yield "E-35", b"\x83", "reserved_bits"
    yield "E-50", b"\x01\x00\x11\x07", "oversize"
    yield "E-10", b"\x01\xff\xff\xff\x02", "oversize"
    yield "E-51", edge.frame(1, b"\x01\0\0\x05k\0\0"), "malformed"
    yield "E-51", edge.frame(1, b"\x01\0\0\0\0\0x"), "malformed"
    yield "E-51", edge.frame(1, b"\x01"), "malformed"
    yield "E-51", edge.hello(key=bytes(257)), "malformed"
    yield "E-52", edge.hello(version=2), "version"
    yield "E-9", edge.frame(1, b"\x02\xff"), "version"
    for code in (2, 3, 4, 5, 6):
        yield "E-30", bytes([code]), "unexpected_frame"


def open_errors(maximum):
    """The same of a client that is open."""
    yield "E-32", edge.hello(), "unexpected_frame"
    yield "E-32", edge.frame(edge.WELCOME), "unexpected_frame"
    yield "E-53", edge.frame(edge.GOAWAY), "unexpected_frame"
    yield "E-49", b"\x08", "unknown_type"
    yield "E-48", b"\x23", "reserved_bits"
    yield "E-50", b"\x03" + (maximum + 1).to_bytes(3, "big"), "oversize"
    yield "E-50", edge.frame(edge.PING, bytes(9)), "oversize"
    yield "E-50", edge.frame(edge.CLOSE, bytes(2)), "oversize"


@judges("E-48", "E-49", "E-50", "E-51", "E-52", "E-9", "E-10", "E-30", "E-31", "E-32", "E-53", "E-65", "E-47", "E-34")
def client_errors(report, run):
    for number, sent, reason in handshake_errors():
        client = Client(run.clients, hello=False)
        client.conn.send(sent)
        client.goaway(report, number, REASONS[reason], sent[:8].hex())
    for number, sent, reason in open_errors(run.hello["frame_bytes_max"]):
        client, connection = session(report, run.a, run.clients)
        client.conn.send(edge.frame(edge.MESSAGE, b"before") + sent)
        report.check("E-47", run.a.expect("E-47", link.DATA).payload == link.message(b"before"), "what comes before counts")
        client.goaway(report, number, REASONS[reason], sent[:8].hex())
        closed = run.a.expect("L-110", link.CLOSED)
        report.check("L-110", closed.aux == REASONS[reason] and closed.connection == connection, f"CLOSED says {closed.aux}")
    report.check("E-34", True, "a frame of the wrong state is unexpected_frame")
    client = Client(run.clients)
    run.a.expect("E-31", link.OPEN)
    client.conn.send(edge.hello())
    client.goaway(report, "E-31", REASONS["unexpected_frame"], "a second HELLO while opening")
    run.a.expect("L-110", link.CLOSED)
    client, connection = session(report, run.a, run.clients)
    client.conn.send(edge.frame(edge.MESSAGE, b"whole") + b"\x03\0\0\x09half")
    client.conn.half_close()
    report.check("E-82", run.a.expect("E-82", link.DATA).payload == link.message(b"whole"), "frames before FIN are forwarded")
    report.check("E-65", run.a.expect("E-65", link.CLOSED).aux == 2, "FIN without CLOSE is client_eof")
    report.check("E-81", client.conn.receive(3) is None, "and gets no GOAWAY")


@judges("L-103", "L-104", "L-105", "L-106", "E-21", "E-19", "L-101")
def endings(report, run):
    cases = [(link.REJECT, 0, b"", 20, 0, 0, "", "L-104"), (link.CLOSE, 0, b"", 21, 0, 0, "", "L-104"),
             (link.CLOSE, 16, struct.pack(">I", 1500), 16, 1500, 0, "", "L-103"),
             (link.CLOSE, 4, b"", 21, 0, 0, "", "L-105"), (link.REJECT, 25, b"", 20, 0, 0, "", "L-105"),
             (link.CLOSE, 999, b"", 28, 0, 0, "", "L-106"), (link.CLOSE, 200, b"", 28, 0, 0, "", "L-106"),
             (link.REJECT, 20, struct.pack(">IH", 9, 4001) + b"go", 20, 9, 4001, "go", "E-21"),
             (link.CLOSE, 21, struct.pack(">IH", 0, 4999) + b"x" * 117, 21, 0, 4999, "x" * 117, "E-21")]
    for code, aux, payload, reason, retry, close, text, number in cases:
        if code == link.REJECT:
            client = Client(run.clients)
            connection = run.a.expect("L-89", link.OPEN).connection
        else:
            client, connection = session(report, run.a, run.clients)
        run.a.send(link.frame(code, payload, connection, aux))
        found = client.goaway(report, number, reason, f"{link.NAMES[code]} {aux}")
        same = (found["retry_after_ms"], found["code"], found["text"]) == (retry, close, text)
        report.check("L-103", same, f"GOAWAY states {found}")
        report.check("L-110", run.a.expect("L-110", link.CLOSED).connection == connection, "CLOSED follows")


@judges("L-161", "L-162", "L-163", "L-165", "L-167", "L-168", "L-169", "L-113")
def fan_out(report, run):
    pairs = [session(report, run.a, run.clients) for _ in range(3)]
    ids = [connection for _, connection in pairs]
    listed = [ids[0], 0xFFFF_FFFF, ids[1], ids[1]]
    run.a.send(link.frame(link.MULTICAST, struct.pack(">I4Q", 4, *listed) + link.message(b"many")))
    run.a.send(link.frame(link.MULTICAST, bytes(4) + link.message(b"none")))
    for at, times in ((0, 1), (1, 2)):
        for _ in range(times):
            got = pairs[at][0].expect("L-162", edge.MESSAGE)
            report.check("L-162" if times == 2 else "L-161", got == b"many", "an id gets the message as often as it stands")
    run.a.send(link.frame(link.BROADCAST, link.message(b"all")))
    for client, _ in pairs:
        report.check("L-163", client.expect("L-163", edge.MESSAGE) == b"all", "BROADCAST reaches everybody")
    run.a.send(link.data(0xDEAD, b"stale"))
    payload = struct.pack(">Q", link.routing_hash(b"any")) + b"to whoever"
    run.a.send(link.frame(link.RELAY, payload))
    relay = run.a.expect("L-165", link.RELAY)
    report.check("L-168", relay.payload == payload and relay.flags == 0, "RELAY arrives unchanged")
    run.a.send(link.frame(link.RELAY, payload, relay.connection, flags=link.DIRECT))
    direct = run.a.expect("L-167", link.RELAY)
    report.check("L-167", direct.payload == payload and direct.flags == link.DIRECT, "DIRECT reaches the origin")
    report.check("L-169", direct.connection == relay.connection, "the origin is that of the session")
    run.a.send(link.frame(link.RELAY, payload, relay.connection ^ 1, flags=link.DIRECT))
    run.a.send(link.frame(link.RELAY, payload, flags=link.ALL))
    report.check("L-166", run.a.frame(0.4) is None, "ALL does not reach its sender, a wrong origin nobody")
    report.check("L-113", not run.a.conn.ended, "what is stale is no error")
    close_all(run, pairs)


def close_all(run, pairs):
    for client, _ in pairs:
        client.conn.send(edge.frame(edge.CLOSE))
        run.a.expect("L-110", link.CLOSED)
        client.conn.close()


@judges("L-78", "L-81", "L-47", "L-61", "L-128")
def resumes(report, run):
    client, connection = session(report, run.a, run.clients)
    for received in range(4):
        client.conn.send(b"".join(edge.frame(edge.MESSAGE, b"%d.%d" % (received, n)) for n in range(4)))
        start = len(run.a.got)
        for _ in range(received):
            run.a.expect("L-107", link.DATA)
        run.a.send(link.data(connection, b"reply"))
        client.expect("L-107", edge.MESSAGE)
        run.a.conn.close()
        hello = run.a.come_up(len(run.a.got), timeout=10)
        report.check("L-47", hello["expected_worker"] == run.a.instance, "the session is asked for again")
        report.check("L-78", hello["received_position"] == len(run.a.sent), "it states what it has handled")
        while len(run.a.got) < start + 4:
            frame = run.a.expect("L-81", link.DATA)
            report.check("L-81", frame.flags == 0, "what is sent again has no RESENT")
        got = [frame.payload[4:] for frame in run.a.got[start:]]
        report.check("L-81", got == [b"%d.%d" % (received, n) for n in range(4)], f"{got} in order, each once")
    report.check("L-81", run.a.frame(0.3) is None, "nothing comes twice")
    close_all(run, [(client, connection)])


def bad_frames(connection):
    """What a worker must not send."""
    accept = struct.pack(">QQ", 7, 7)
    yield "L-121", link.frame(9), "type 9"
    yield "L-121", link.open_(1), "OPEN by a worker"
    yield "L-5", link.data(connection, b"", flags=link.DEFLATED), "DEFLATED"
    yield "L-5", link.frame(link.RELAY, bytes(8), flags=link.ALL | link.DIRECT), "ALL and DIRECT"
    yield "L-122", link.frame(link.PING, bytes(9)), "PING of 9 bytes"
    yield "L-123", link.frame(link.ACK, bytes(9)), "ACK of 9 bytes"
    yield "L-64", link.ack(1 << 50), "ACK of what was never sent"
    yield "L-125", link.frame(link.DRAINING, b"x"), "DRAINING with a payload"
    yield "L-125", link.frame(link.MOVED, b"x", connection), "MOVED with a payload"
    yield "L-126", link.frame(link.DATA, b"\x03\0\0\x02x", connection), "DATA of half a message"
    yield "L-127", link.frame(link.RELAY, bytes(7)), "RELAY of 7 bytes"
    yield "L-127", link.frame(link.MULTICAST, struct.pack(">I", 5) + bytes(8)), "MULTICAST that ends in its ids"
    yield "L-94", link.frame(link.ACCEPT, accept[:12], connection), "ACCEPT of 12 bytes"
    yield "L-94", link.frame(link.ACCEPT, accept + b"\0\x02a ", connection), "a subprotocol with a space"
    yield "L-102", link.frame(link.CLOSE, struct.pack(">IH", 0, 3999), connection), "close code 3999"
    yield "L-102", link.frame(link.CLOSE, bytes(5), connection), "CLOSE of 5 bytes"
    yield "L-33", link.frame(link.LINK_REFUSE, aux=4), "LINK_REFUSE on a link that is up"


@judges("L-121", "L-5", "L-122", "L-123", "L-64", "L-125", "L-126", "L-127", "L-94", "L-102", "L-33", "L-128", "L-129")
def worker_errors(report, run):
    client, connection = session(report, run.a, run.clients)
    for number, frame, what in bad_frames(connection):
        # Two errors in a row at one position would end the session.
        run.a.send(link.data(connection, b"between"))
        run.a.conn.send(frame)
        ended = run.a.frame(5) is None and bool(run.a.conn.ended)
        report.check(number, ended, f"{what} ends the TCP connection")
        run.a.conn.close()
        hello = run.a.come_up(len(run.a.got))
        report.check("L-128", hello["expected_worker"] == run.a.instance, f"the session goes on after {what}")
        client.expect("L-128", edge.MESSAGE)
    for _ in range(2):
        run.a.conn.send(link.frame(9))
        run.a.conn.ends(5)
        run.a.conn.close()
        conn, payload, hello = run.a.accept()
        if hello["expected_worker"] == run.a.instance:
            run.a.greet(conn, payload, len(run.a.got))
            conn.send(link.ack(len(run.a.got)))
            run.a.conn = conn
    report.check("L-129", hello["expected_worker"] == link.NONE, "twice the same error ends the session")
    run.a.greet(conn, payload)
    run.a.forget()
    conn.send(link.ack(0))
    run.a.conn, run.a.next = conn, 0
    again = run.a.expect("L-134", link.REOPEN)
    report.check("L-134", again.connection == connection, "its connections are reopened")
    report.check("L-145", again.payload == struct.pack(">QQB", link.routing_hash(b"k"), 7, 0), "REOPEN has its layout")
    close_all(run, [(client, connection)])


@judges("L-147", "L-149", "L-150", "R-3", "L-157", "L-97", "L-98", "L-131", "L-140")
def moves(report, run):
    keys = [b"key %d" % n for n in range(8)]
    pairs = {}
    for key in keys:
        client, connection = session(report, run.a, run.clients, key)
        pairs[connection] = (client, key)
    run.b.sock.listen(8)
    run.b.come_up(timeout=70)
    due = {c for c, (_, key) in pairs.items() if link.owner(link.routing_hash(key), ("a", "b")) == "b"}
    for connection in list(due):
        closed = run.a.expect("L-147", link.CLOSED, 10)
        report.check("L-147", closed.aux == 25 and closed.connection in due, "CLOSED(moved) for whom b owns")
        run.a.send(link.data(closed.connection, b"still from a"))
        run.a.send(link.frame(link.MOVED, b"", closed.connection))
        reopened = run.b.expect("L-150", link.REOPEN)
        report.check("L-150", reopened.connection == closed.connection and not reopened.flags, "REOPEN goes to b")
        report.check("L-149", pairs[closed.connection][0].expect("L-149", edge.MESSAGE) == b"still from a",
                     "until MOVED the old worker is heard")
    report.check("R-3", run.a.frame(0.5) is None, "nobody else moves: the owner is that of part 2")
    for connection, (client, key) in pairs.items():
        client.conn.send(edge.frame(edge.MESSAGE, key))
        worker = run.b if connection in due else run.a
        report.check("R-3", worker.expect("R-3", link.DATA).payload == link.message(key), "messages follow the owner")
    # b has forgotten: what it had comes again, marked.
    if due:
        moved = next(iter(due))
        run.b.conn.close()
        pairs[moved][0].conn.send(edge.frame(edge.MESSAGE, b"while b is away"))
        run.b.come_up(timeout=10)
        report.check("L-131", run.b.expect("L-131", link.REOPEN, 8).type == link.REOPEN, "not resumed is given up")


SCENARIOS = (handshakes, life, client_errors, endings, fan_out, resumes, worker_errors, moves)


class Run:
    """What the scenarios share."""

    def __init__(self, clients, a, b):
        self.clients, self.a, self.b, self.hello = clients, a, b, None


def play(report, command, secret, folder, log=None):
    """All scenarios, one after the other; b refuses to be dialled until it is wanted."""
    a, b = Worker(report, "a", secret), Worker(report, "b", secret, listens=False)
    clients = free_address()
    places = {"clients": clients, "worker_a": a.address, "worker_b": b.address, "folder": folder}
    child = Child(command, places, log)
    run = Run(pair(clients), a, b)
    try:
        if not wait_for(clients):
            raise Failure("L-1", "the gateway does not listen for clients")
        for scenario in SCENARIOS:
            report.run(scenario, run)
            if run.hello is None or child.ended(0) is not None:
                break
    finally:
        child.stop()
