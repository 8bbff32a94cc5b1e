"""The server under test: whether it is there, what it is, how it counts tokens."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gevent.lock import BoundedSemaphore
from gevent.pool import Pool

from fathom_client import Client, FathomError, InvalidArgumentError, InvalidRequestError, OverloadedError, Timeout
from fathom_loadtest.errors import ScenarioError, ServerError
from fathom_loadtest.scenario import Scenario

_ATTEMPTS: Final = 3
_BETWEEN_ATTEMPTS_S: Final = 1.0
_CONTROL_S: Final = 5.0
_COUNTS_AT_ONCE: Final = 8


def connect(scenario: Scenario) -> Client:
    """Open a client of the scenario's server with its limits; raises ScenarioError for what is no address."""
    try:
        return Client(scenario.url, timeout=Timeout(request_s=scenario.timeout_s, control_s=_CONTROL_S))
    except InvalidArgumentError as error:
        raise ScenarioError(f"--{error}") from error


def error_kind(error: FathomError) -> str:
    """Name the kind of an error as reports count it: the client's exception."""
    return type(error).__name__


def check_target(client: Client, scenario: Scenario) -> dict[str, str]:
    """Make sure that the server is up and serves the model; gives what it says of itself.

    Raises ServerError naming the server or the model.
    """
    try:
        server = client.server_metadata()
        model = client.model_metadata(scenario.model)
    except FathomError as error:
        raise ServerError(f"cannot test {scenario.model!r} at {scenario.url}: {error}") from error
    return {
        "server": f"{server.name} {server.version}",
        "model platform": model.platform,
        "model versions": ", ".join(model.versions),
    }


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens of texts by asking the server, as the scenario's requests would send them."""

    client: Client
    scenario: Scenario

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """Give each text's number of tokens; raises ServerError where the server does not tell."""
        pool = Pool(_COUNTS_AT_ONCE)
        try:
            answers: list[int | FathomError] = pool.map(self._ask, texts)
        finally:
            pool.kill()
        for answer in answers:
            if isinstance(answer, FathomError):
                raise ServerError(f"{self.scenario.model!r} refuses a text of synthetic words: {answer}") from answer
        counts = [answer for answer in answers if isinstance(answer, int)]
        if min(counts) < 1:
            raise ServerError(
                f"{self.scenario.model!r} does not report num_input_tokens, which synthetic prompts are measured by; "
                "use --prompts"
            )
        return counts

    def _ask(self, text: str) -> int | FathomError:
        try:
            return self._count(text)
        except FathomError as error:  # handed to the caller: gevent would print what a greenlet raises
            return error

    def _count(self, text: str) -> int:
        model = self.scenario.model
        match self.scenario.task:
            case "embed":
                return sum(self.client.embed(model, [text], batch_size=1).num_input_tokens)
            case "chat":
                stream = self.client.stream_chat(model, [{"role": "user", "content": text}], max_tokens=1)
            case "generate":
                stream = self.client.stream(model, text, max_tokens=1)
        with stream:
            for _ in stream:
                pass
            return stream.result().num_input_tokens


def _is_live(client: Client) -> bool:
    try:
        return client.is_live()
    except FathomError:
        return False


@dataclass(slots=True)
class ServerWatch:
    """Tells a server that refuses a request from one that is gone; ``lost`` says how it is known to be gone."""

    lost: str | None = None
    _one_at_a_time: BoundedSemaphore = field(default_factory=BoundedSemaphore)

    def check(self, client: Client) -> None:
        """Ask the server for a sign of life; where none comes, ask again a few times, then set ``lost``."""
        if self.lost is not None or _is_live(client):
            return
        with self._one_at_a_time:  # whoever waits here learns from the one who asks
            for _ in range(_ATTEMPTS - 1):
                if self.lost is None:
                    time.sleep(_BETWEEN_ATTEMPTS_S)
                    if _is_live(client):
                        return
            self.lost = f"no sign of life in {_ATTEMPTS} attempts"

    def check_after(self, error: FathomError, client: Client) -> None:
        """Look for the server after a failed request, unless the very error proves that it is there."""
        if not isinstance(error, InvalidRequestError | OverloadedError):
            self.check(client)
