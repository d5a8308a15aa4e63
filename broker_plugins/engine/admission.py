"""How many new connections are taken before their handshake, and from where. Pure; told what time it is."""

from collections import Counter


class Admission:
    """A token bucket of `rate` connections a second, up to `burst` at once; at most `per_address` open from one address
    (0: any number) and `maximum` in all.
    """

    def __init__(self, rate: float, burst: int, per_address: int, maximum: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._per_address = per_address
        self._maximum = maximum
        self._tokens = float(burst)
        self._filled = float("-inf")
        self._addresses: Counter[str] = Counter()
        self.open = 0
        """Connections that were admitted and not yet left."""

    def wait(self, now: float) -> float:
        """Seconds until the next connection may be accepted; 0.0: now."""
        if self._filled == float("-inf"):
            self._filled = now
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        return max(0.0, (1 - self._tokens) / self._rate)

    def enter(self, address: str) -> str | None:
        """A connection was accepted: why it is refused, or None, and then `leave` has to follow."""
        self._tokens -= 1
        if self.open >= self._maximum:
            return "too_many"
        if self._per_address and self._addresses[address] >= self._per_address:
            return "too_many_from_address"
        self.open += 1
        if self._per_address:
            self._addresses[address] += 1
        return None

    def leave(self, address: str) -> None:
        """A connection from an address is over."""
        self.open -= 1
        if self._per_address:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
