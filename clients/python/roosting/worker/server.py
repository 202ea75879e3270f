"""The worker's shell: sockets, clock, randomness, signals; asyncio."""

import asyncio
import contextvars
import ipaddress
import os
import signal
import socket
import sys
import threading

from . import codec
from .core import Core
from .handle import Handle
from .link import Link, Refused
from ..convert import as_bytes

TICK_S = 0.25
LINGER_S = 1.0  # after LINK_REFUSE (SPEC.md 3.2)
HANDSHAKES_MAX = 1024  # connections that have not proved themselves


def log_to_stderr(text):
    print(f"worker: {text}", file=sys.stderr, flush=True)


class Worker:
    """Serves gateways with an application's handler.

    `secret`: what gateways must know, at least 16 bytes; None is for loopback addresses and Unix sockets only.
    `window_bytes`: what one shard of a gateway may have sent and not seen acknowledged.
    `pending_bytes_max`: what may wait for one shard beyond the window that it grants; then its frames wait, and
    sends from elsewhere raise Full.
    `pushes_max`, `push_bytes_max`: bounds of `handle`'s queue.
    `drain_s`: how long to wait for connections to leave.

    Its methods must be called on the thread of its event loop; `handle` is for others.
    """

    def __init__(self, handler, *, secret=None, window_bytes=4 << 20, pending_bytes_max=4 << 20, pushes_max=10_000,
                 push_bytes_max=16 << 20, drain_s=10.0, log=log_to_stderr):
        if secret is not None and len(secret) < 16:
            raise ValueError("a secret has at least 16 bytes")
        self.instance = os.urandom(16)
        self.addresses = []  # where it listens, once it does
        self.log = log
        self._core = Core(handler, secret, self.instance, self, window_bytes, pending_bytes_max)
        self._handle = Handle(self, self._wake_from_outside, pushes_max, push_bytes_max)
        self._drain_s = drain_s
        self._loop = None
        self._streams, self._tasks = {}, set()  # by link; of async handlers
        self._will_flush = False
        self._room = []  # futures: something may have room
        self._drain_asked = False
        handler.worker = self

    # --- for the application ---

    def handle(self):
        """A way in for other threads."""
        return self._handle

    def clients_of(self, key):
        """The open connections of a key here, oldest first. `relay` reaches those of other workers."""
        return self.clients_of_hash(codec.routing_hash(as_bytes(key)))

    def clients_of_hash(self, routing_hash):
        return self._core.directory.find(routing_hash)

    def is_present(self, key):
        """Whether a key has an open connection here."""
        return bool(self.clients_of(key))

    def present(self):
        """The routing hashes that have open connections here; a view that changes with them."""
        return self._core.directory.hashes()

    def __len__(self):
        """How many connections are open here."""
        return self._core.directory.total

    def multicast(self, clients, payload, text=False):
        """Sends one message to many connections. Returns for how many it was queued: those that are open, and whose
        gateway takes messages of this size and has room."""
        return self._core.multicast(clients, payload, text)

    def broadcast(self, payload, all_workers=False, text=False):
        """Sends one message to all connections served here, or with `all_workers` to all connections of the gateways
        linked here. Returns over how many links it was queued."""
        return self._core.broadcast(payload, all_workers, text)

    def relay(self, key, payload):
        """Hands a payload to the worker that serves a key, which may be this one. It is lost where no worker is up:
        who must know asks for an answer. Raises Full, Closed or TooLong."""
        self._core.relay(codec.routing_hash(as_bytes(key)), payload, False)

    def relay_to_hash(self, routing_hash, payload):
        """As `relay`, for the key's routing hash."""
        self._core.relay(routing_hash, payload, False)

    def relay_to_all(self, payload):
        """Hands a payload to every other worker of a gateway's shard. Raises as `relay`."""
        self._core.relay(0, payload, True)

    def links(self):
        """The link sessions; opaque."""
        return list(self._core.sessions.values())

    async def room(self, client):
        """Waits until `client.send` does not raise Full, or the client has gone."""
        while client.is_open and self._core.is_full(client._link):
            future = self._loop.create_future()
            self._room.append(future)
            await future

    def drain(self):
        """Asks the gateways to move all connections to other workers; `run` returns when they have, or after
        `drain_s`. Any thread may call it."""
        self._drain_asked = True
        self._wake_from_outside()

    # --- running ---

    async def run(self, addresses, on_listening=None, signals=None):
        """Serves until it has drained. `addresses`: `HOST:PORT` (port 0: any), `unix:PATH`, or listening sockets; one
        or a list. SIGTERM and SIGINT drain, unless `signals` is false; by default in the main thread.

        Raises OSError or ValueError if it cannot listen there.
        """
        self._loop, self._stirred = asyncio.get_running_loop(), asyncio.Event()
        if signals is None:
            signals = threading.current_thread() is threading.main_thread()
        servers = []
        try:
            for address in [addresses] if isinstance(addresses, (str, socket.socket)) else addresses:
                listener = address if isinstance(address, socket.socket) else listen(address, self._core.secret)
                name = listener.getsockname()
                self.addresses.append(name if isinstance(name, str) else f"{name[0]}:{name[1]}")
                is_unix = listener.family == socket.AF_UNIX
                create = self._loop.create_unix_server if is_unix else self._loop.create_server
                servers.append(await create(lambda: Stream(self), sock=listener))
            if signals:
                for number in (signal.SIGTERM, signal.SIGINT):
                    self._loop.add_signal_handler(number, self.drain)
            if on_listening:
                on_listening(self.addresses)
            await self._serve()
        finally:
            if signals:
                for number in (signal.SIGTERM, signal.SIGINT):
                    self._loop.remove_signal_handler(number)
            for server in servers:
                server.close()
            for stream in list(self._streams.values()):
                stream.transport.close()
            for task in list(self._tasks):
                task.cancel()
            self._handle.close()

    async def _serve(self):
        drained_at = None
        self._run_pushes()  # those from before it ran
        while True:
            if self._drain_asked and not self._core.is_draining:
                self._core.drain()
                drained_at = self._loop.time() + self._drain_s
            if drained_at is not None and not self._will_flush:
                if self._core.has_drained() and not any(each.is_writing for each in self._streams.values()):
                    return
                if self._loop.time() > drained_at:
                    self.log("connections are left after the drain")
                    return
            self._stirred.clear()
            try:
                await asyncio.wait_for(self._stirred.wait(), TICK_S)
            except asyncio.TimeoutError:
                pass
            self._tick()

    def _tick(self):
        now = self._loop.time()
        for stream in list(self._streams.values()):
            stream.attempt(stream.link.tick, now)
            stream.carry()
        self._core.expire(now)

    # --- what the core asks for ---

    def now(self):
        return self._loop.time()

    random_bytes = staticmethod(os.urandom)

    def spawn(self, awaitable, done):
        """Runs an async handler; it keeps the context, by which the core knows its frame."""
        task = asyncio.ensure_future(awaitable)
        self._tasks.add(task)

        def on_done(task):
            self._tasks.discard(task)
            done(None if task.cancelled() else task.exception())
        task.add_done_callback(on_done)

    def wake(self):
        """A flush follows, once for all that happens in this turn of the loop."""
        if not self._will_flush and self._loop is not None:
            self._will_flush = True
            # In no handler's context.
            self._loop.call_soon(self._flush, context=contextvars.Context())

    def drop(self, link, why):
        stream = self._streams.get(link)
        if stream:
            stream.end(why)

    def _flush(self):
        self._will_flush = False
        for link in self._core.flush():
            stream = self._streams.get(link)
            if stream:
                stream.carry()
        waiting, self._room = self._room, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
        self._run_pushes()
        if self._core.is_draining:
            self._stirred.set()

    # --- pushes from outside ---

    def _wake_from_outside(self):
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._on_outside, context=contextvars.Context())
            except RuntimeError:
                pass  # the loop has ended, and so has the worker

    def _on_outside(self):
        if self._drain_asked:
            self._stirred.set()
        self._run_pushes()

    def _run_pushes(self):
        # A link that is up and full takes more soon, and a flush follows then.
        if self._handle.run(lambda session: session.link is not None and self._core.is_full(session)):
            self._loop.call_soon(self._run_pushes, context=contextvars.Context())


class Stream(asyncio.Protocol):
    """One TCP or Unix connection of a gateway shard."""

    def __init__(self, worker):
        self._worker = worker
        self._is_paused = self._has_ended = False

    def connection_made(self, transport):
        self.transport = transport
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.link = Link(self._worker._core, self._worker.now())
        streams = self._worker._streams
        if sum(each.link.session is None for each in streams.values()) >= HANDSHAKES_MAX:
            self._has_ended = True
            transport.abort()
            return
        streams[self.link] = self

    def data_received(self, data):
        self.attempt(self.link.receive, data, self._worker.now())
        self.carry()

    def connection_lost(self, error):
        self.end(error or "the gateway closed the connection")

    def pause_writing(self):
        self._is_paused = True

    def resume_writing(self):
        self._is_paused = False
        self.carry()

    @property
    def is_writing(self):
        """Whether something has not reached TCP yet."""
        return bool(self.link.out) or self.transport.get_write_buffer_size() > 0

    def attempt(self, what, *args):
        """Whatever goes wrong with a link ends this connection, and nothing else."""
        if self._has_ended:
            return
        try:
            what(*args)
        except Refused as error:
            self.transport.write(bytes(self.link.out))
            self._forget(error)
            # Reading goes on for a while, so that unread input does not turn the close into a reset.
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._worker._loop.call_later(LINGER_S, self.transport.abort)
        except codec.LinkError as error:
            self.end(error)

    def carry(self):
        """Hands to TCP what the link wrote; what TCP does not take now waits in the link."""
        if self.link.out and not self._is_paused and not self._has_ended:
            data = bytes(self.link.out)
            self.link.out.clear()
            self.transport.write(data)

    def end(self, why):
        if not self._has_ended:
            self._forget(why)
            self.transport.abort()

    def _forget(self, why):
        self._has_ended = True
        self._worker._streams.pop(self.link, None)
        session = self.link.session
        if session and session.link is self.link:
            self._worker._core.on_detached(session)
        self._worker.log(f"link closed: {why}")


def listen(address, secret):
    """A listening socket on HOST:PORT or unix:PATH."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(address.removeprefix("unix:"))
        sock.listen()
        return sock
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if secret is None and not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"{host} is not a loopback address, so links need a secret (--secret-file)")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, int(port)), family=family)
