"""Why something was not sent; shared by clients and workers."""


class SendError(Exception):
    """Nothing was sent. Its kinds say why."""


class Full(SendError):
    """The queue holds as much as it may: try later."""


class Closed(SendError):
    """The connection, or the client or worker as a whole, has ended."""


class TooLong(SendError):
    """The message is longer than the gateway's `frame_bytes_max`."""
