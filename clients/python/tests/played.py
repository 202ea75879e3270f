"""Gateways as tests play them: the other end of a client, and of a worker."""

import asyncio
import os

from roosting.edge import codec as edge
from roosting.worker import codec as link

TIMEOUT_S = 30


class EdgePeer:
    """The gateway's end of one client's connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.decoder, self.frames = edge.Decoder(), []

    async def next(self):
        """The client's next frame; None after its FIN."""
        while not self.frames:
            data = await asyncio.wait_for(self.reader.read(65536), TIMEOUT_S)
            if not data:
                return None
            self.frames += [edge.decode_payload(*whole) for whole in self.decoder.feed(data)]
        return self.frames.pop(0)

    async def next_but_pings(self):
        while True:
            frame = await self.next()
            if frame is None or frame["type"] != "PING":
                return frame

    def send(self, kind, **fields):
        self.writer.write(edge.encode({"type": kind, **fields}))

    async def welcome(self, heartbeat_interval_ms=0, idle_timeout_ms=0, frame_bytes_max=65536, messages_per_s_max=0,
                      session=1):
        """Reads HELLO and answers it."""
        hello = await self.next()
        self.send("WELCOME", heartbeat_interval_ms=heartbeat_interval_ms, idle_timeout_ms=idle_timeout_ms,
                  frame_bytes_max=frame_bytes_max, messages_per_s_max=messages_per_s_max, session=session)
        return hello

    def goaway(self, reason, retry_after_ms=0, code=0, alternative=b"", text=""):
        self.send("GOAWAY", reason=reason, retry_after_ms=retry_after_ms, code=code, alternative=alternative, text=text)
        self.writer.close()


class EdgeGateway:
    """Listens as a gateway does; `accept` gives the next client."""

    async def __aenter__(self):
        self.peers = asyncio.Queue()
        self.server = await asyncio.start_server(
            lambda reader, writer: self.peers.put_nowait(EdgePeer(reader, writer)), "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.accepted = []
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for peer in self.accepted:
            peer.writer.transport.abort()

    async def accept(self):
        peer = await asyncio.wait_for(self.peers.get(), TIMEOUT_S)
        self.accepted.append(peer)
        return peer


HELLO = {
    "type": "LINK_HELLO", "flags": 0, "aux": 0, "connection": 0, "shards": 4, "frame_bytes_max": 65536,
    "capabilities": 0, "link_failover_ms": 10_000, "link_keepalive_ms": 10_000, "idle_timeout_ms": 150_000,
    "messages_per_s_max": 0,
}


class Shard:
    """One gateway shard's session with a worker, without a socket: what a break must not lose is in here.

    `begin` gives the bytes of a new TCP connection, `receive` takes the worker's; `out` gathers bytes to send.
    """

    def __init__(self, secret=None, shard=0, window_bytes=1 << 20, instance=None, **hello):
        self.secret, self.shard, self.window_bytes = secret, shard, window_bytes
        self.hello = {**HELLO, **hello}
        self.instance = instance or os.urandom(16)
        self.new_session()

    def new_session(self):
        self.worker = link.NO_INSTANCE
        self.received = 0  # the worker's sequenced frames handled
        self.kept, self.acked = [], 0  # own sequenced frames not acknowledged, and how many were
        self.frames = []  # the worker's sequenced frames, in order

    def begin(self):
        self.buffer, self.out, self.is_up = b"", b"", False
        self.others = []  # frames that are not sequenced
        self.hello_frame = link.encode_frame({
            **self.hello, "shard": self.shard, "gateway": self.instance, "nonce": os.urandom(16),
            "expected_worker": self.worker, "received_position": self.received, "window_bytes": self.window_bytes})
        self.out += self.hello_frame

    def receive(self, data):
        self.buffer += data
        while whole := link.split(self.buffer, link.payload_bytes_max(self.hello["frame_bytes_max"])):
            self.buffer = self.buffer[link.HEADER_BYTES + len(whole[1]):]
            frame = link.decode_frame(*whole, self.hello["frame_bytes_max"])
            if frame["type"] == "LINK_WELCOME":
                self.on_welcome(frame, whole[1])
            elif frame["type"] == "ACK":
                self.is_up = True
                self.on_ack(frame["position"])
            elif link.is_sequenced(frame["type"]):
                self.received += 1
                self.frames.append(frame)
            else:
                self.others.append(frame)

    def on_welcome(self, welcome, payload):
        covered = self.hello_frame[link.HEADER_BYTES:], payload[:link.WELCOME_PROVEN_BYTES]
        proof = None
        if self.secret is not None:
            assert link.verify(self.secret, "worker", *covered, welcome["proof"]), "the worker proves itself"
            proof = link.prove(self.secret, "gateway", *covered)
        self.out += link.encode("LINK_PROOF", link.encode_proof(proof))
        self.was_resumed = welcome["resumed"]
        if welcome["resumed"]:
            assert welcome["worker"] == self.worker
            self.on_ack(welcome["received_position"])
        else:
            kept = self.kept if self.worker == link.NO_INSTANCE else []
            self.new_session()
            self.kept = kept
        self.worker = welcome["worker"]
        for frame in self.kept:
            self.out += frame

    def on_ack(self, position):
        assert self.acked <= position <= self.acked + len(self.kept), f"ACK {position} is out of range"
        del self.kept[:position - self.acked]
        self.acked = position

    def send(self, kind, connection=0, flags=0, aux=0, **fields):
        frame = link.encode_frame({"type": kind, "connection": connection, "flags": flags, "aux": aux, **fields})
        if link.is_sequenced(kind):
            self.kept.append(frame)
        self.out += frame

    def open(self, connection, key=b"k", token=b"", **changes):
        self.send("OPEN", connection, **{
            "routing_hash": link.routing_hash(key), "framing": 0, "peer": None, "key": key, "token": token, "meta": b"",
            **changes})

    def data(self, connection, message, flags=0):
        self.send("DATA", connection, flags, message=message)

    def acknowledge(self):
        self.out += link.encode("ACK", self.received.to_bytes(8, "big"))
