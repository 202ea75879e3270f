"""Sends a client of a `route` worker bytes at a steady pace, and lets it read or not.

    python3 -m roost.faults.pour PORT reads|stops BYTES BYTES_PER_S

The last line says how many bytes were sent, how many came, and how many were said to be
undeliverable; before it stands when the first of those was, in seconds since the first was sent.
"""

import socket
import struct
import sys
import threading
import time

from roost.clients import edge_codec as edge

BODY_BYTES = 32 * 1024
OP_SEND, OP_RECEIPT = 1, 3
DELIVERED = 0
DELIVER_BYTES = 14  # what stands before the body
AHEAD_MAX = 16  # messages: half of what an outbox takes


def connect(port, key):
    one = socket.create_connection(("127.0.0.1", port), 60)
    one.sendall(edge.encode({"type": "HELLO", "key": key, "token": b""}))
    decoder = edge.Decoder()
    while True:
        for kind, payload in decoder.feed(one.recv(4096)):
            if kind != "WELCOME":
                sys.exit(f"{kind} instead of WELCOME: {edge.decode_payload(kind, payload)}")
            return one


class Receipts(threading.Thread):
    """Counts what the worker says to the sender, by status."""

    def __init__(self, one):
        super().__init__(daemon=True)
        self.socket, self.by_status, self.refused_at = one, {}, None
        self.start()

    def run(self):
        decoder = edge.Decoder()
        while data := receive(self.socket):
            for kind, payload in decoder.feed(data):
                if kind == "MESSAGE" and payload[0] == OP_RECEIPT:
                    self.by_status[payload[1]] = self.by_status.get(payload[1], 0) + 1
                    if payload[1] != DELIVERED and self.refused_at is None:
                        self.refused_at = time.monotonic()

    def count(self):
        return sum(self.by_status.values())


class Reader(threading.Thread):
    """Reads as fast as it can, and counts whole messages by their bytes: they are all alike."""

    def __init__(self, one):
        super().__init__(daemon=True)
        self.socket, self.bytes = one, 0
        self.start()

    def run(self):
        while data := receive(self.socket):
            self.bytes += len(data)

    def messages(self):
        return self.bytes // (edge.HEADER_BYTES + DELIVER_BYTES + BODY_BYTES)


def receive(one):
    try:
        return one.recv(1024 * 1024)
    except OSError:
        return b""


def main():
    port, reads, size, per_s = int(sys.argv[1]), sys.argv[2] == "reads", int(sys.argv[3]), int(sys.argv[4])
    key = f"victim-{sys.argv[2]}".encode()
    victim, sender = connect(port, key), connect(port, b"sender")
    told, heard = Receipts(sender), Reader(victim) if reads else None
    count, head = size // BODY_BYTES, struct.pack(">H", len(key)) + key
    begin = time.monotonic()
    sender.settimeout(120)
    for number in range(count):
        payload = struct.pack(">BI", OP_SEND, number) + head + bytes(BODY_BYTES)
        sender.sendall(edge.encode({"type": "MESSAGE", "payload": payload}))
        time.sleep(max(begin + (number + 1) * BODY_BYTES / per_s - time.monotonic(), 0))
        # A reader that gets no CPU is not to be taken for one that does not read.
        while heard and heard.is_alive() and number - heard.messages() > AHEAD_MAX:
            time.sleep(0.001)
    until = time.monotonic() + 60
    while (told.count() < count or heard and heard.messages() < count) and time.monotonic() < until:
        time.sleep(0.02)
    came = heard.messages() if heard else 0
    if told.refused_at is not None:
        print(f"refused after {told.refused_at - begin:.2f}")
    print(f"sent {count * BODY_BYTES}, received {came * BODY_BYTES}, receipts {told.by_status}")
    refused = sum(number for status, number in told.by_status.items() if status != DELIVERED)
    # Of a client that is closed, the worker says that it is gone.
    complete = told.count() == count and (not reads or came == count)
    return 0 if complete and (refused == 0) == reads else 1


if __name__ == "__main__":
    sys.exit(main())
