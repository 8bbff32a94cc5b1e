"""Rates that a job keeps: requests a second, tokens a minute."""

import asyncio
import time


class Pace:
    """A bucket that fills at a steady rate and holds what comes in ``burst_s`` seconds; it may be overdrawn.

    ``take`` waits until the bucket is not overdrawn, then takes. What a request costs is known only afterwards where it
    is tokens: the next one waits for it. ``rate`` is in units a second; None is no limit.
    """

    def __init__(self, rate: float | None, burst_s: float = 1.0) -> None:
        self._rate = rate
        self._full = 0.0 if rate is None else max(rate * burst_s, 1.0)
        self._level = self._full
        self._filled = time.monotonic()
        self._turn = asyncio.Lock()

    async def take(self, amount: float = 1.0) -> None:
        """Wait for one's turn and take."""
        if self._rate is None:
            return
        async with self._turn:
            self._fill(self._rate)
            if self._level <= 0 or self._level < min(amount, self._full):
                await asyncio.sleep((min(max(amount, 1e-9), self._full) - self._level) / self._rate)
                self._fill(self._rate)
            self._level -= amount

    def charge(self, amount: float) -> None:
        """Take what something turned out to cost, without waiting."""
        self._level -= amount

    def _fill(self, rate: float) -> None:
        now = time.monotonic()
        self._level = min(self._full, self._level + (now - self._filled) * rate)
        self._filled = now
