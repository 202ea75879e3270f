"""What applications may write as text."""


def as_bytes(value):
    """A key or token as the wire has it; text is UTF-8."""
    return value.encode() if isinstance(value, str) else bytes(value)
