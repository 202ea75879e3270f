"""HdrHistogram V2 interval logs, as `roost-loadgen --hlog` writes them: read, cut to a span of
time, and asked for percentiles. Standard library only."""

import base64
import re
import struct
import zlib

COMPRESSED, ENCODED = 0x1C849304, 0x1C849303  # the formats' cookies, two digits of precision or more
HEADER = ">IIIIQQd"


def read(path, tag="corrected"):
    """[(start, end, counts)] of the intervals with this tag; times in seconds since 1970, counts a
    list of (highest value of the bucket, count), ascending."""
    base, intervals = 0.0, []
    with open(path, encoding="ascii") as file:
        for line in file:
            said = re.match(r"#\[(?:BaseTime|StartTime): ([0-9.]+)", line)
            if said:
                base = float(said[1])
            fields = line.strip().split(",")
            if line.startswith("Tag=") and fields[0] == f"Tag={tag}":
                start, length = float(fields[1]), float(fields[2])
                start += base if start < base / 2 else 0
                intervals.append((start, start + length, counts(fields[4])))
    return intervals


def counts(text):
    """What a histogram holds, from its encoded form."""
    data = base64.b64decode(text)
    cookie, length = struct.unpack_from(">II", data)
    if cookie & ~0xF0 != COMPRESSED & ~0xF0:
        raise ValueError(f"not a compressed V2 histogram: {cookie:#x}")
    data = zlib.decompress(data[8:8 + length])
    cookie, length, offset, digits, lowest, _, _ = struct.unpack_from(HEADER, data)
    if cookie & ~0xF0 != ENCODED & ~0xF0 or offset:
        raise ValueError(f"not a V2 histogram: {cookie:#x}")
    start = struct.calcsize(HEADER)
    # The layout of HdrHistogram: sub-buckets for two times ten to the digits, in powers of two.
    unit_bits = max(lowest, 1).bit_length() - 1
    sub_bits = max((2 * 10 ** digits - 1).bit_length(), 1)
    half = 1 << (sub_bits - 1)
    found, index = [], 0
    for number in zigzags(data[start:start + length]):
        if number < 0:
            index -= number
            continue
        if number:
            bucket = (index >> (sub_bits - 1)) - 1
            sub = (index & (half - 1)) + half
            if bucket < 0:
                bucket, sub = 0, sub - half
            shift = bucket + unit_bits
            found.append((((sub + 1) << shift) - 1, number))
        index += 1
    return found


def zigzags(data):
    """ZigZag LEB128 numbers of at most nine bytes, of which the ninth has eight bits."""
    value = shift = 0
    for byte in data:
        last = shift == 56
        value |= (byte if last else byte & 0x7F) << shift
        if byte & 0x80 and not last:
            shift += 7
            continue
        yield (value >> 1) ^ -(value & 1)
        value = shift = 0


class Span:
    """All intervals that touch [start, end)."""

    def __init__(self, intervals, start, end, whole=False):
        """With `whole`, only intervals that lie in it entirely."""
        merged = {}
        for first, last, bucket_counts in intervals:
            inside = start <= first and last <= end if whole else first < end and last > start
            for value, count in bucket_counts if inside else ():
                merged[value] = merged.get(value, 0) + count
        self.counts = sorted(merged.items())
        self.count = sum(merged.values())

    def percentile(self, percent):
        """The value that so many percent do not exceed; None of nothing."""
        wanted, seen = self.count * percent / 100, 0
        for value, count in self.counts:
            seen += count
            if seen >= wanted:
                return value
        return None

    def max(self):
        return self.counts[-1][0] if self.counts else None
