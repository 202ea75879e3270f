"""The test's own client: one message, its echo, CLOSE. `--break NUMBER` breaks one requirement.

    python3 -m conformance.test_client HOST PORT MESSAGE [--idle] [--break E-24]
"""

import sys
import time

from . import edge
from .net import Conn

BROKEN = sys.argv[sys.argv.index("--break") + 1] if "--break" in sys.argv else ""


class Over(Exception):
    """The gateway ends the session, or errs."""


def take(conn, expected, timeout):
    """The payload of the next frame of this type; none when the time is over."""
    until = time.monotonic() + timeout
    while (left := until - time.monotonic()) > 0:
        if conn.buffer and not 2 <= conn.buffer[0] <= 6 and BROKEN != "E-29":
            raise Over("type")
        frame = conn.receive(left)
        if frame is None:
            if conn.ended:
                raise Over(conn.ended)
            if conn.buffer and not 2 <= conn.buffer[0] <= 6:
                raise Over("type")
            continue
        code, payload = frame
        if code == edge.GOAWAY:
            edge.parse_goaway(payload)
            if BROKEN != "E-20" or payload[0] != 200:
                raise Over("GOAWAY")
        elif code == edge.PING:
            if len(payload) > 8:
                raise Over("PING")
            conn.send(edge.frame(edge.PONG, payload[:4] if BROKEN == "E-17" else payload))
        elif code == expected:
            return payload
        elif code != edge.PONG and BROKEN != "E-29":
            raise Over(f"type {code}")
        if expected == edge.PONG and code == edge.PONG:
            return payload
    return None


def main():
    host, port, message = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
    conn = Conn.dial((host, port), edge.split)
    conn.send(edge.hello())
    if BROKEN == "E-24":
        conn.send(edge.frame(edge.MESSAGE, message))
    fields = edge.parse_welcome(take(conn, edge.WELCOME, 10) or b"")
    if "--idle" in sys.argv:
        while True:
            time.sleep(fields["heartbeat_interval_ms"] / (250 if BROKEN == "E-38" else 2_000))
            conn.send(edge.frame(edge.PING))
            if take(conn, edge.PONG, fields["heartbeat_interval_ms"] / 1_000) is None:
                return 1
    conn.send(edge.frame(edge.MESSAGE, message if BROKEN == "E-25" else message[:fields["frame_bytes_max"]]))
    echo = take(conn, edge.MESSAGE, 20)
    if echo is None or len(echo) > fields["frame_bytes_max"]:
        return 1
    conn.send(edge.frame(edge.CLOSE))
    if BROKEN == "E-80":
        return 0
    while not conn.ended:
        conn.receive(5)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Over, edge.Malformed) as over:
        print(over)
        sys.exit(1)
