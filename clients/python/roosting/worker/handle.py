"""The way into a running worker from other threads, and from code that is not called by it."""

import collections
import concurrent.futures
import threading

from . import codec
from ..convert import as_bytes
from ..errors import Closed, Full

BATCH = 64  # pushes that run before the worker turns to other things
WORK_BYTES = 64  # what a push counts besides its payload


class Handle:
    """Pushes into a worker from any thread; none of its methods waits.

    Pushes of one thread run in order, on the worker's thread, between the calls of its handler. Each raises Full
    when `pushes_max` pushes or `push_bytes_max` bytes wait already, and Closed when the worker has ended. Success
    means that the worker will try; who must know what became of it uses `call`.

    A push to a gateway that is there, but takes less than it is sent, waits, and those behind it, too. One to a
    gateway that is away, and whose queue is full, is dropped and counted in `dropped`.

    `worker` is for functions given to `call`.
    """

    def __init__(self, worker, wake, pushes_max, push_bytes_max):
        self.dropped = 0
        self.worker, self._wake = worker, wake
        self._pushes_max, self._push_bytes_max = pushes_max, push_bytes_max
        self._lock = threading.Lock()
        self._pushes, self._bytes, self._is_closed = collections.deque(), 0, False

    def send(self, client, payload, text=False):
        """Sends a message to a connection."""
        self._push(len(payload), lambda: client.is_open and client.send(payload, text), lambda: [client._link])

    def send_to_key(self, key, payload, text=False):
        """Sends a message to all connections of a key here."""
        self.send_to_hash(codec.routing_hash(as_bytes(key)), payload, text)

    def send_to_hash(self, routing_hash, payload, text=False):
        """As `send_to_key`, for the key's routing hash."""
        def find():
            return self.worker.clients_of_hash(routing_hash)
        self._push(len(payload), lambda: self._send_all(find(), payload, text),
                   lambda: [client._link for client in find()])

    def multicast(self, clients, payload, text=False):
        """Sends one message to many connections."""
        clients = list(clients)
        self._push(len(payload) + 8 * len(clients), lambda: self.worker.multicast(clients, payload, text),
                   lambda: {client._link for client in clients})

    def broadcast(self, payload, all_workers=False, text=False):
        """Sends one message to all connections served here, or with `all_workers` to all of all linked gateways."""
        self._push(len(payload), lambda: self.worker.broadcast(payload, all_workers, text),
                   lambda: self.worker.links())

    def call(self, function, *args):
        """Runs a function on the worker's thread; it must not block. Returns a `concurrent.futures.Future` of its
        result; an asyncio program of another loop awaits it by `asyncio.wrap_future`."""
        future = concurrent.futures.Future()

        def run():
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args))
                except BaseException as error:
                    future.set_exception(error)
        run.future = future
        self._push(0, run, lambda: ())
        return future

    def _send_all(self, clients, payload, text):
        for client in clients:
            try:
                client.send(payload, text)
            except Full:
                self.dropped += 1  # this one's gateway is away

    def _push(self, payload_bytes, run, links):
        size_bytes = payload_bytes + WORK_BYTES
        with self._lock:
            if self._is_closed:
                raise Closed("the worker has ended")
            # One that is longer than what may wait goes where nothing else waits.
            if self._pushes and (len(self._pushes) >= self._pushes_max
                                 or self._bytes + size_bytes > self._push_bytes_max):
                raise Full("the queue into the worker is full")
            self._pushes.append((size_bytes, run, links))
            self._bytes += size_bytes
            is_first = len(self._pushes) == 1
        if is_first:
            self._wake()

    # --- on the worker's thread ---

    def run(self, must_wait):
        """Runs some pushes. True: others wait, and may run now; False: nothing waits, or a link has to take more
        first. `must_wait(link)` says whether that link does."""
        for _ in range(BATCH):
            with self._lock:
                if not self._pushes:
                    return False
                size_bytes, run, links = self._pushes[0]
            if any(must_wait(link) for link in links()):
                return False
            try:
                run()
            except Exception:  # a gateway that is away, a client that has gone, a message too long
                self.dropped += 1
            with self._lock:
                self._pushes.popleft()
                self._bytes -= size_bytes
        return bool(self._pushes)

    def close(self):
        """The worker has ended: nothing that waits will run."""
        with self._lock:
            self._is_closed = True
            left = list(self._pushes)
            self._pushes.clear()
            self._bytes = 0
        for _, run, _ in left:
            if hasattr(run, "future"):
                run.future.set_exception(Closed("the worker has ended"))
