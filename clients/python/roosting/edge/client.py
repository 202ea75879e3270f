"""The client: comes back until it is told not to, and says as events what happens."""

import asyncio
import collections
import inspect
import random

from . import address as addresses_
from .connection import Connection, Outcome
from .events import Connecting, Ended, Lost, Message, Open, Unsent
from .retry import NO_WAY_BACK, Retry
from .session import Session
from ..convert import as_bytes
from ..errors import Closed, Full, TooLong

STATE_EVENTS_MAX = 64  # that nobody has taken; the oldest are forgotten
MESSAGE_BYTES = 64  # what a queued message counts besides its payload
FLUSH_BYTES = 65536
FRAME_BYTES_LIMIT = 2**24 - 1


def connect(addresses, *, key=b"", token=b"", comes_back=None, queue_messages_max=1_000,
            queue_bytes_max=1 << 20, receive_bytes_max=1 << 20, open_timeout_s=30.0, rng=None, **options):
    """A client of the gateways at `addresses`. Returns at once; it connects, and comes back, in the background.

    `addresses`: `host:port`, `[v6]:port`, a pair, or a list of such; a client begins anywhere in the list.
    `key`: who shares it shares a worker; at most 256 bytes.
    `token`: goes to the worker unread, at most 4,096 bytes; or a function, also an async one, that is called for
    each attempt.
    `comes_back`: is asked with a `Lost` whether to come back; by default always, except for the reasons with
    "back: no" in SPEC.md, for which nobody is asked.
    `queue_messages_max`, `queue_bytes_max`: what may wait to be sent. `receive_bytes_max`: what may wait to be
    taken; then the client stops reading.
    `open_timeout_s`: for the TCP connection and for WELCOME, each.
    `options` go to asyncio's `create_connection`: `ssl`, `server_hostname`, `local_addr` and so on.

    Must be called while an event loop runs, and the client be used there. Raises ValueError if an address
    or the key cannot be one.
    """
    if isinstance(addresses, (str, tuple)):
        addresses = [addresses]
    return Client(
        [addresses_.split(each) for each in addresses], _key(key), token, comes_back, queue_messages_max,
        queue_bytes_max, receive_bytes_max, open_timeout_s, rng or random.SystemRandom(), options,
    )


class Client:
    """See `connect`. An async iterator of events, and an async context manager that closes at its end."""

    def __init__(self, addresses, key, token, comes_back, queue_messages_max, queue_bytes_max, receive_bytes_max,
                 open_timeout_s, rng, options):
        self._loop = asyncio.get_running_loop()
        self._key, self._token, self._comes_back = key, token, comes_back
        self._queue_messages_max, self._queue_bytes_max = queue_messages_max, queue_bytes_max
        self._receive_bytes_max, self._open_timeout_s = receive_bytes_max, open_timeout_s
        self._rng, self._options = rng, options
        self._retry = Retry(addresses, rng)

        self._queue, self._queue_bytes = collections.deque(), 0
        self._senders, self._has_room = asyncio.Lock(), asyncio.Event()
        self._events, self._event_came = collections.deque(), asyncio.Event()
        self._receive_bytes = self._state_events = 0

        self._address = ""
        self._connection = None  # while there is one
        self._frame_bytes_max = FRAME_BYTES_LIMIT  # of the latest session
        self._session = None  # the latest session's reference
        self._rate_timer = None
        self._is_closing = self._has_ended = self._is_clean = False
        self._task = self._loop.create_task(self._run())

    @property
    def local_address(self):
        """This end of the TCP connection, as `socket.getsockname` gives it; None while there is none."""
        return self._connection.transport.get_extra_info("sockname") if self._connection else None

    # --- sending ---

    async def send(self, payload):
        """Queues a message; waits while the queue is full. It is sent when a session is open.

        Messages leave in order. One that was handed to TCP when a session ended may or may not have arrived.
        Raises TooLong if it exceeds the latest session's `frame_bytes_max`, Closed if the client has ended.
        """
        payload = bytes(payload)
        async with self._senders:  # first come, first served
            while True:
                self._check(payload)
                if self._fits(payload):
                    break
                self._has_room.clear()
                await self._has_room.wait()
            self._append(payload)

    def send_nowait(self, payload):
        """As `send`, but raises Full instead of waiting."""
        payload = bytes(payload)
        self._check(payload)
        if self._senders.locked() or not self._fits(payload):
            raise Full("the queue is full")
        self._append(payload)

    def _check(self, payload):
        if self._is_closing or self._has_ended:
            raise Closed("the client has ended")
        if len(payload) > self._frame_bytes_max:
            raise TooLong(f"the gateway takes {self._frame_bytes_max} bytes")

    def _fits(self, payload):
        total_bytes = self._queue_bytes + len(payload) + MESSAGE_BYTES
        # One that is longer than the queue goes alone.
        return not self._queue or (len(self._queue) < self._queue_messages_max and total_bytes <= self._queue_bytes_max)

    def _append(self, payload):
        self._queue.append(payload)
        self._queue_bytes += len(payload) + MESSAGE_BYTES
        self._pump()

    def _pump(self):
        """Sends what TCP and the gateway's rate take now, and CLOSE behind the last message."""
        connection = self._connection
        if connection is None or connection.transport.is_closing():
            return
        session = connection.session
        while self._queue and session.welcome and not connection.is_paused and not session.is_closing:
            payload = self._queue[0]
            if len(payload) > self._frame_bytes_max:
                self._emit(Unsent(payload))
            elif not session.send(payload, self._loop.time()):
                if self._rate_timer is None:
                    self._rate_timer = self._loop.call_later(session.send_wait_s(), self._on_allowance)
                break
            self._queue.popleft()
            self._queue_bytes -= len(payload) + MESSAGE_BYTES
            self._has_room.set()
            if len(session.out) >= FLUSH_BYTES:
                connection.flush()
        if self._is_closing and not (self._queue and session.welcome):
            session.close(self._loop.time())
        connection.flush()

    def _on_allowance(self):
        self._rate_timer = None
        self._pump()

    # --- events ---

    def __aiter__(self):
        return self

    async def __anext__(self):
        while not self._events:
            if self._has_ended:
                if self._task.done() and not self._task.cancelled() and self._task.exception():
                    raise self._task.exception()
                raise StopAsyncIteration
            self._event_came.clear()
            await self._event_came.wait()
        event = self._events.popleft()
        if isinstance(event, Message):
            self._receive_bytes -= len(event.payload) + MESSAGE_BYTES
            if self._connection and 2 * self._receive_bytes <= self._receive_bytes_max:
                self._connection.read_again()
        else:
            self._state_events -= 1
        return event

    async def messages(self):
        """Only the payloads of messages, for whoever does not care about the rest."""
        async for event in self:
            if isinstance(event, Message):
                yield event.payload

    def _emit(self, event):
        if isinstance(event, Message):
            self._receive_bytes += len(event.payload) + MESSAGE_BYTES
        elif self._state_events == STATE_EVENTS_MAX:
            self._events.remove(next(each for each in self._events if not isinstance(each, Message)))
        else:
            self._state_events += 1
        self._events.append(event)
        self._event_came.set()

    # --- the end ---

    async def close(self, timeout_s=10.0):
        """Sends what is queued, then CLOSE, and reads until the gateway's FIN; gives up after `timeout_s`.

        True: the gateway has read everything and handed it to a worker's link. False: that is not known, or
        there was no session. Messages that come meanwhile are still events, as far as there is room.
        """
        if not self._has_ended:
            self._is_closing = True
            self._has_room.set()
            if self._connection is None:
                self._task.cancel()
            else:
                self._connection.read_again()
                self._pump()
            await asyncio.wait({self._task}, timeout=timeout_s)
            if not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task})
        return self._is_clean

    async def __aenter__(self):
        return self

    async def __aexit__(self, error, *_):
        await self.close(10.0 if error is None else 1.0)

    # --- the way there ---

    async def _run(self):
        ended = Ended("closed")
        try:
            while True:
                host, port = self._retry.address()
                self._address = addresses_.join(host, port)
                self._emit(Connecting(self._address, self._retry.attempt))
                outcome = await self._attempt(host, port)
                if self._is_closing:
                    self._is_clean = outcome.is_clean and not self._queue
                    break
                lost = self._lost(outcome)
                if outcome.reason in NO_WAY_BACK or (self._comes_back and not self._comes_back(lost)):
                    ended = Ended(outcome.reason, outcome.code, outcome.text)
                    break
                self._emit(lost)
                await asyncio.sleep(lost.retry_in_s)
        except asyncio.CancelledError:
            pass  # by `close`, or the loop ends
        finally:
            self._has_ended = True
            self._emit(ended)
            self._has_room.set()

    def _lost(self, outcome):
        alternative = None
        if outcome.alternative:
            try:
                alternative = addresses_.split(outcome.alternative)
            except ValueError:
                pass  # not for us to repair: the list will do
        pause_s = self._retry.pause_s(outcome.retry_after_ms, alternative, outcome.open_for_s)
        return Lost(outcome.reason, pause_s, outcome.code, outcome.text)

    async def _attempt(self, host, port):
        """Dials, and returns when the connection is over."""
        try:
            token = self._token() if callable(self._token) else self._token
            token = as_bytes(await token if inspect.isawaitable(token) else token)
            if len(token) > 4096:
                raise ValueError("a token has at most 4,096 bytes")
        except Exception as error:  # the application's; whatever it is, the next attempt may have one
            return Outcome("token", repr(error))

        def make_session(now):
            return Session(self._key, token, now, self._rng.random())

        open_timer = None
        try:
            dialled = self._loop.create_connection(lambda: Connection(self, make_session), host, port, **self._options)
            _, connection = await asyncio.wait_for(dialled, self._open_timeout_s)
            open_timer = self._loop.call_later(self._open_timeout_s, self._on_open_timeout)
            return await connection.ended
        except asyncio.TimeoutError:
            return Outcome("timeout", "no connection")
        except OSError as error:
            return Outcome("unreachable", str(error))
        finally:
            for timer in (open_timer, self._rate_timer):
                if timer:
                    timer.cancel()
            self._rate_timer = None
            if self._connection:
                self._connection.transport.abort()
            self._connection = None

    def _on_open_timeout(self):
        if self._connection and not self._connection.session.welcome:
            self._connection.end("timeout", "no WELCOME")

    # --- what the connection says ---

    def on_connected(self, connection):
        self._connection = connection

    def on_frame(self, kind, what):
        if kind == "MESSAGE":
            # While the client closes it must read on; what nobody takes then has nowhere to stay.
            if self._receive_bytes < self._receive_bytes_max or not self._is_closing:
                self._emit(Message(what))
        elif kind == "WELCOME":
            resumed, self._session = self._session == what["session"], what["session"]
            self._frame_bytes_max = what["frame_bytes_max"]
            self._emit(Open(self._address, resumed=resumed, **{
                name: what[name] for name in ("session", "heartbeat_interval_ms", "idle_timeout_ms", "frame_bytes_max",
                                              "messages_per_s_max")}))
            self._loop.call_soon(self._pump)

    def on_writable(self):
        self._pump()

    def is_full(self):
        return self._receive_bytes >= self._receive_bytes_max and not self._is_closing


def _key(value):
    key = as_bytes(value)
    if len(key) > 256:
        raise ValueError("a key has at most 256 bytes")
    return key
