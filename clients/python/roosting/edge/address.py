"""Addresses as people write them."""


def split(address):
    """(host, port) of `host:port`, `[v6]:port` or such a pair. Raises ValueError."""
    if isinstance(address, tuple):
        host, port = address
    else:
        host, _, port = address.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{address!r}: an IPv6 address stands in brackets")
    if not host or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host, int(port)


def join(host, port):
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
