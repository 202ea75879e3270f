"""Writes initramfs archives: cpio in the "newc" format (kernel: Documentation/driver-api/early-userspace)."""

import gzip
import os
import stat
from pathlib import PurePosixPath


class Archive:
    """Collects files by absolute path; parent directories appear by themselves."""

    def __init__(self):
        self._bytes = bytearray()
        self._names = set()
        self._inode = 0

    def directory(self, path):
        path = PurePosixPath(path)
        if str(path) in self._names or str(path) == "/":
            return
        self.directory(path.parent)
        self._entry(path, stat.S_IFDIR | 0o755, b"")

    def file(self, path, data, mode=0o644):
        self.directory(PurePosixPath(path).parent)
        self._entry(PurePosixPath(path), stat.S_IFREG | mode, data)

    def symlink(self, path, target):
        self.directory(PurePosixPath(path).parent)
        self._entry(PurePosixPath(path), stat.S_IFLNK | 0o777, str(target).encode())

    def device(self, path, major, minor):
        self.directory(PurePosixPath(path).parent)
        self._entry(PurePosixPath(path), stat.S_IFCHR | 0o600, b"", (major, minor))

    def _entry(self, path, mode, data, device=(0, 0)):
        self._names.add(str(path))
        self._inode += 1
        self._raw(str(path).lstrip("/"), mode, data, device)

    def _raw(self, name, mode, data, device=(0, 0)):
        encoded = name.encode() + b"\0"
        fields = [self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0]
        self._bytes += b"070701" + b"".join(b"%08x" % field for field in fields)
        self._bytes += encoded
        self._pad()
        self._bytes += data
        self._pad()

    def _pad(self):
        self._bytes += bytes(-len(self._bytes) % 4)

    def finish(self):
        """The archive, compressed. Several may be concatenated."""
        self._raw("TRAILER!!!", 0, b"")
        return gzip.compress(bytes(self._bytes), compresslevel=1)


def write(path, *archives):
    partial = f"{path}.partial"
    with open(partial, "wb") as out:
        for data in archives:
            out.write(data)
    os.replace(partial, path)
