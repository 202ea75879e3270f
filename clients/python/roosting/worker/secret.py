"""The link secret in a file, by the rules of gateway and reference worker."""

import os
import sys

SECRET_BYTES_MIN = 16


class BadSecret(Exception):
    """args[0] says what is wrong with the file, and the remedy."""


def read_secret(path):
    """The secret: the file's content without trailing line ends. Raises BadSecret.

    Warns on standard error if others may read the file.
    """
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            secret = file.read().rstrip(b"\r\n")
    except OSError as error:
        raise BadSecret(f"{path} cannot be read: {error.strerror}") from None
    if mode & 0o002:
        raise BadSecret(f"{path}: everybody may change it (mode {mode:04o}): chmod 600 {path}")
    if len(secret) < SECRET_BYTES_MIN:
        raise BadSecret(f"{path}: the secret has {len(secret)} bytes, {SECRET_BYTES_MIN} are the least")
    if mode & 0o066:
        print(f"worker: {path}: others may read it (mode {mode:04o}); chmod 600 {path}", file=sys.stderr)
    return secret
