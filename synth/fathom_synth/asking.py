"""Requests to a server that may be busy, late or away for a while: sent again until answered, or given up by name."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from fathom_client import (
    AsyncClient,
    DeadlineExceededError,
    FathomError,
    InvalidArgumentError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RequestCancelledError,
    ServerUnavailableError,
    StreamBrokenError,
    Timeout,
    Tls,
)
from fathom_synth.errors import JobError, ServerError
from fathom_synth.job import ServerSettings
from fathom_synth.pace import Pace

Answer = TypeVar("Answer")

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
MAX_REFUSED_IN_A_ROW: Final = 100
"""So many requests refused one after the other, before any was answered, are the job's fault and not the rows'."""
_AWAY: Final = (ServerUnavailableError, ModelNotFoundError, StreamBrokenError, RequestCancelledError)
_REFUSED: Final = (InvalidRequestError, InvalidArgumentError)


class RefusedError(Exception):
    """One request that will never be answered; the others may."""


class Asker:
    """Sends requests to one server, so many at a time and a second, and waits out its absence.

    ``tell`` is called with a line when the server goes away and when it is back.
    """

    def __init__(self, settings: ServerSettings, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._requests = Pace(settings.requests_per_s)
        self._tokens = Pace(None if settings.tokens_per_minute is None else settings.tokens_per_minute / 60)
        self._away_since: float | None = None
        self._answered = 0
        self._refused_in_a_row = 0
        try:
            self.client = AsyncClient(
                settings.url,
                timeout=Timeout(request_s=settings.timeout_s),
                api_key=_read_key(settings.api_key_file),
                tls=None if settings.tls_ca is None else Tls(ca=settings.tls_ca),
            )
        except InvalidArgumentError as error:
            raise JobError(f"server: {error}") from error

    async def close(self) -> None:
        """Close the connection."""
        await self.client.close()

    async def check_model(self, model: str) -> None:
        """Wait until the server has this model; raises ServerError where it has none of the name, or stays away."""
        await self._until(lambda: self.client.model_metadata(model), f"model {model}", is_known=False)

    async def ask(self, request: Callable[[], Awaitable[Answer]], tokens: Callable[[Answer], int]) -> Answer:
        """Send a request until it is answered.

        Raises RefusedError where the server will not answer this one, and ServerError where it stays away.
        """
        await self._tokens.take(0.0)
        await self._requests.take()
        answer = await self._until(request, "the request", is_known=True)
        self._tokens.charge(tokens(answer))
        return answer

    async def _until(self, request: Callable[[], Awaitable[Answer]], what: str, *, is_known: bool) -> Answer:
        faults, pause_s = 0, FIRST_PAUSE_S
        while True:
            try:
                answer = await request()
            except OverloadedError as error:
                pause_s = await self._pause(pause_s, error)  # it is there, and busy: that may take as long as it takes
            except _AWAY as error:
                if isinstance(error, ModelNotFoundError) and not is_known and not self._answered:
                    raise ServerError(f"{error}; `fathom-client models` lists those that the server has") from error
                self._check_away(error)
                pause_s = await self._pause(pause_s, error)
            except _REFUSED as error:
                self._refused_in_a_row += 1
                if not self._answered and self._refused_in_a_row >= MAX_REFUSED_IN_A_ROW:
                    raise ServerError(f"the server refuses every request: {error}") from error
                raise RefusedError(str(error)) from error
            except FathomError as error:
                faults += 1
                if faults >= self._settings.attempts:
                    late = "; raise server.timeout_s" if isinstance(error, DeadlineExceededError) else ""
                    raise RefusedError(f"{error}{late} (tried {faults} times)") from error
                pause_s = await self._pause(pause_s, error)
            else:
                self._came_back()
                if is_known:
                    self._answered += 1
                    self._refused_in_a_row = 0
                return answer

    async def _pause(self, pause_s: float, error: FathomError) -> float:
        """Wait with full jitter, or as long as the server says; gives the next pause."""
        wanted = getattr(error, "retry_after_s", None)
        if wanted is not None and wanted <= LONGEST_PAUSE_S:
            await asyncio.sleep(wanted)
        else:
            await asyncio.sleep(random.uniform(0.1, 1.0) * pause_s)  # noqa: S311 - spreads requests, guards no secret
        return min(2 * pause_s, LONGEST_PAUSE_S)

    def _check_away(self, error: FathomError) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            self._tell(f"the server is away ({error}); waiting for it, {self._settings.wait_s:g} s at most")
        if now - self._away_since > self._settings.wait_s:
            raise ServerError(
                f"the server stayed away for {self._settings.wait_s:g} s ({error}); what was answered is kept: run the "
                "same command again when it is back, or raise server.wait_s"
            )

    def _came_back(self) -> None:
        if self._away_since is not None:
            self._tell(f"the server is back after {time.monotonic() - self._away_since:.0f} s")
            self._away_since = None


def _read_key(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"server.api_key_file {path}: cannot be read ({error}); name a file of the key") from error
