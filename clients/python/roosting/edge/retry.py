"""Where and when a client dials next (SPEC.md 1.6, "Coming back"); no clock, randomness comes in."""

PAUSE_MIN_S, PAUSE_MAX_S = 1.0, 120.0

# "Back: no" in SPEC.md's table of close reasons: the same client would be refused again.
NO_WAY_BACK = frozenset((
    "unknown_type", "oversize", "reserved_bits", "malformed", "version", "unexpected_frame", "proxy_header",
))


class Retry:
    """The addresses, and the pauses between attempts.

    A pause is a random part of a ceiling that doubles with each attempt in a row (full jitter), so that
    clients that were cut off together do not come back together. The ceiling begins anew when a
    session has lasted for longer than it.
    """

    def __init__(self, addresses, rng):
        """`addresses`: at least one. `rng` has the methods of `random.Random`."""
        self._addresses = list(addresses)
        if not self._addresses:
            raise ValueError("a client needs an address")
        self._rng = rng
        # Clients with the same list spread over it.
        self._next = rng.randrange(len(self._addresses))
        self._alternative = None
        self.attempt = 0

    def address(self):
        """What to dial now: GOAWAY's alternative once, then the list in turn."""
        self.attempt += 1
        if self._alternative is not None:
            address, self._alternative = self._alternative, None
            return address
        address = self._addresses[self._next]
        self._next = (self._next + 1) % len(self._addresses)
        return address

    def pause_s(self, retry_after_ms=0, alternative=None, open_for_s=0.0):
        """How long to wait after an attempt that failed, or a session that lasted `open_for_s`.

        `retry_after_ms` of the gateway is jittered already, and obeyed as it is; 0: no advice.
        """
        self._alternative = alternative or None
        if open_for_s > self._ceiling_s():
            self.attempt = 0
        if retry_after_ms:
            return retry_after_ms / 1000
        # The first pause of a row may follow a session: then no attempt has failed yet.
        return self._rng.random() * self._ceiling_s()

    def _ceiling_s(self):
        # Bounded before the power: attempts may be many.
        return min(PAUSE_MIN_S * 2 ** min(max(self.attempt - 1, 0), 16), PAUSE_MAX_S)
