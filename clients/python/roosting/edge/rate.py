"""A client keeps to the rate that WELCOME states; no clock."""


class Rate:
    """How many messages may be sent now.

    The gateway closes whoever exceeds `messages_per_s_max`, and allows a burst of two seconds' worth
    (SPEC.md 1.5). This takes half a second's worth, so that messages which TCP delays and then delivers
    together stay within the burst.
    """

    def __init__(self, messages_per_s_max, now):
        """`messages_per_s_max`: 0 is no limit. `now` in seconds, of any clock that does not go back."""
        self._per_s = messages_per_s_max
        self._burst = max(1.0, messages_per_s_max / 2)
        self._left, self._at = self._burst, now

    def take(self, now):
        """Takes one message's allowance; False if there is none."""
        if not self._per_s:
            return True
        self._left = min(self._burst, self._left + max(now - self._at, 0) * self._per_s)
        self._at = now
        # A timer that was set for the moment may come a rounding error early.
        if self._left < 1 - 1e-6:
            return False
        self._left -= 1
        return True

    def wait_s(self):
        """How long until one message may follow, as of the last `take`."""
        return max(1 - self._left, 0) / self._per_s if self._per_s else 0.0
