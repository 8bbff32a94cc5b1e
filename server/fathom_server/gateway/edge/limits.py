"""What a key may ask: requests and tokens a minute, and so many requests at once."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fathom_server.gateway.settings import GatewaySettings

CONCURRENCY_RETRY_S: Final = 1.0
"""What a caller over its number of concurrent requests is told to wait: when one of them ends cannot be known."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a key may not ask now, in a word for metrics and in a sentence, and when it may again, in seconds."""

    reason: str
    message: str
    retry_after_s: float


class TokenBucket:
    """A bucket that ``per_minute`` units flow into, evenly, until it holds a minute's worth; it may be overdrawn."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._seen_s = now_s

    def level(self, now_s: float) -> float:
        """What is in it; below 0 where it is overdrawn."""
        flowed = (now_s - self._seen_s) * self.per_minute / 60
        self._level, self._seen_s = min(float(self.per_minute), self._level + flowed), now_s
        return self._level

    def take(self, units: float, now_s: float) -> None:
        """Take out units, whether they are there or not."""
        self._level = self.level(now_s) - units

    def wait_s(self, units: float, now_s: float) -> float:
        """Seconds until so many units are in it; 0 if they are."""
        return max(0.0, (units - self.level(now_s)) * 60 / self.per_minute)


class KeyUsage:
    """What one key has asked so far, against the limits of each key in the gateway's settings."""

    def __init__(self, limits: GatewaySettings, clock: Callable[[], float] = time.monotonic) -> None:
        now_s = clock()
        self._most_running = limits.max_concurrent_requests
        self._clock = clock
        self._requests = _bucket(limits.requests_per_minute, now_s)
        self._tokens = _bucket(limits.tokens_per_minute, now_s)
        self.running = 0

    def begin(self) -> Refusal | None:
        """Let a request begin, or say why not. A request that began must ``end``."""
        now_s = self._clock()
        if self._most_running is not None and self.running >= self._most_running:
            return Refusal(
                "concurrency",
                f"{self.running} requests of this key are running, which is its limit; wait for one of them to end",
                CONCURRENCY_RETRY_S,
            )
        for unit, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None and (wait_s := bucket.wait_s(1, now_s)):
                message = f"this key has used its {bucket.per_minute} {unit} a minute; try again in {duration(wait_s)}"
                return Refusal(f"{unit}_per_minute", message, wait_s)
        if self._requests is not None:
            self._requests.take(1, now_s)
        self.running += 1
        return None

    def end(self, tokens: int) -> None:
        """A request that began has ended, having cost so many tokens, read and written."""
        self.running -= 1
        if self._tokens is not None:
            self._tokens.take(tokens, self._clock())

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's ``x-ratelimit-…`` headers as they stand."""
        now_s = self._clock()
        headers = []
        for unit, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                values = {
                    "limit": str(bucket.per_minute),
                    "remaining": str(max(0, math.floor(bucket.level(now_s)))),
                    "reset": duration(bucket.wait_s(bucket.per_minute, now_s)),
                }
                headers += [(f"x-ratelimit-{what}-{unit}".encode(), value.encode()) for what, value in values.items()]
        return headers


def duration(seconds: float) -> str:
    """A time as OpenAI's headers spell it: ``20ms``, ``1.5s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 10) / 10, 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def _bucket(per_minute: int | None, now_s: float) -> TokenBucket | None:
    return None if per_minute is None else TokenBucket(per_minute, now_s)
