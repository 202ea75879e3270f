"""Sends SYNs with false source addresses of 198.18.0.0/15 until it is ended, for a minute at most.

    python3 -m roost.faults.syns ADDRESS PORT PER_S        (root; in a network namespace of its own)
"""

import random
import socket
import struct
import sys
import time

SOURCES, LENGTH = 0xC6120000, 1 << 17
SYN, WINDOW = 2, 65_535
BURST = 100
AT_MOST_S = 60


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def syn(target, port):
    source = struct.pack(">I", SOURCES + random.randrange(1, LENGTH - 1))
    own_port, sequence = random.randrange(1_024, 65_536), random.getrandbits(32)
    tcp = struct.pack(">HHIIBBHHH", own_port, port, sequence, 0, 5 << 4, SYN, WINDOW, 0, 0)
    check = checksum(source + target + struct.pack(">BBH", 0, socket.IPPROTO_TCP, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack(">H", check) + tcp[18:]
    # The kernel fills in length, id and checksum: raw(7).
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0, source, target)
    return ip + tcp


def main():
    address, port, per_s = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    target = socket.inet_aton(address)
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    begin, sent = time.monotonic(), 0
    while (now := time.monotonic() - begin) < AT_MOST_S:
        if sent > now * per_s:
            time.sleep(0.002)
            continue
        for _ in range(BURST):
            try:
                out.sendto(syn(target, port), (address, 0))
            except OSError:  # the device's queue is full
                time.sleep(0.001)
        sent += BURST


if __name__ == "__main__":
    main()
