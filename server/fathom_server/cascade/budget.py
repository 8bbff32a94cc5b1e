"""How many requests may go to the large model."""


class Budget:
    """Over any run of n requests at most ``share`` × n + ``burst`` are handed over. For one thread.

    Each request adds its share, each hand-over takes one; what was not taken is kept, up to ``burst``.
    """

    def __init__(self, share: float, burst: int) -> None:
        self._share = share
        self._burst = float(burst)
        self._left = float(burst)

    def count_request(self) -> None:
        """Note that a request has come."""
        self._left = min(self._burst, self._left + self._share)

    def take(self) -> bool:
        """Hand one over, if there is budget for it."""
        if self._share >= 1.0:
            return True
        if self._share == 0.0 or self._left < 1.0:
            return False
        self._left -= 1.0
        return True
