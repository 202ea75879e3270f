"""What a client tells its application, in the order in which it happens."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Connecting:
    """A gateway is being dialled."""

    address: str  # host:port
    attempt: int  # in a row without a lasting session; 1 is the first


@dataclasses.dataclass(frozen=True, slots=True)
class Open:
    """A session is open: WELCOME has come."""

    address: str
    session: int  # the worker's reference of this session
    resumed: bool  # the session before had the same reference
    heartbeat_interval_ms: int  # 0: no heartbeat is asked for
    idle_timeout_ms: int  # silence after which the gateway closes; 0: never
    frame_bytes_max: int  # the longest message, both ways
    messages_per_s_max: int  # 0: no limit; what exceeds it waits in the queue


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """A message of the worker."""

    payload: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Unsent:
    """A queued message is longer than the gateway of the new session allows, and was dropped."""

    payload: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Lost:
    """The session, or the attempt at one, is over; the next attempt follows."""

    reason: str  # a close reason of SPEC.md, or one of `LOCAL_REASONS`
    retry_in_s: float  # until the next attempt
    code: int = 0  # the application's close code (4000 to 4999); 0: none
    text: str = ""  # the application's text, or what the system said


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more will come: `close` was called, or coming back makes no sense."""

    reason: str
    code: int = 0
    text: str = ""


LOCAL_REASONS = {
    "unreachable": "nobody accepts a connection at this address",
    "timeout": "the connection, or WELCOME, did not come in time",
    "silent": "the gateway said nothing for a heartbeat interval after a PING",
    "stopped": "this process was stopped for longer than the gateway waits",
    "eof": "the gateway ended the connection without a reason",
    "reset": "the connection was reset, or TCP gave it up",
    "protocol": "the gateway broke the protocol",
    "token": "the token could not be had",
    "closed": "the application called close",
}
