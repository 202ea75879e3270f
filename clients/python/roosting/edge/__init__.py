"""The client's side of the edge protocol (SPEC.md, part 1).

`connect` gives a `Client`, which is an async iterator of events. Inside, from pure to not:

* codec:      frames as bytes and back.
* rate:       keeps to the gateway's limit of messages per second.
* retry:      where and when to dial next.
* session:    one session: states, heartbeat; without I/O.
* connection: one TCP connection under a session.
* client:     the queue, the events, and coming back.
"""

from .client import Client, connect
from .events import LOCAL_REASONS, Connecting, Ended, Lost, Message, Open, Unsent
from ..errors import Closed, Full, SendError, TooLong

__all__ = ["Client", "Closed", "Connecting", "Ended", "Full", "LOCAL_REASONS", "Lost", "Message", "Open", "SendError",
           "TooLong", "Unsent", "connect"]
