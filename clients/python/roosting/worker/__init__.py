"""The worker's side of routing and of the link protocol (SPEC.md, parts 2 and 3).

A `Worker` calls a `Handler`. Inside, from pure to not:

* codec:   frames as bytes and back, the routing hash, the proofs.
* session: what of a link outlives its TCP connections.
* link:    one TCP connection: handshake, window, acknowledgements.
* clients: connections as an application sees them.
* core:    all sessions, and the calls of the handler; without I/O.
* handle:  the way in from other threads.
* server:  asyncio: sockets, clock, signals.
"""

from .clients import Client, Message, Opening, Relay
from .codec import routing_hash
from .handle import Handle
from .handler import Handler
from .secret import BadSecret, read_secret
from .server import Worker
from ..errors import Closed, Full, SendError, TooLong

__all__ = ["BadSecret", "Client", "Closed", "Full", "Handle", "Handler", "Message", "Opening", "Relay", "SendError",
           "TooLong", "Worker", "read_secret", "routing_hash"]
