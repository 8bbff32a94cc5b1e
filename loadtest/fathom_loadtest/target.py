"""The server under test: whether it is there, what it is, how it counts tokens."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gevent.lock import BoundedSemaphore
from gevent.pool import Pool

from fathom_client import (
    Client,
    FathomError,
    InvalidArgumentError,
    InvalidRequestError,
    OverloadedError,
    Timeout,
    Tls,
)
from fathom_loadtest.content.synthetic import WORDS
from fathom_loadtest.errors import ScenarioError, ServerError
from fathom_loadtest.passport import passport_rows
from fathom_loadtest.scenario import Scenario, Target, TaskSpec

OPEN_LOOP_CONNECTIONS: Final = 8
"""Connections that the requests of an open loop share; the users of a closed loop have one each."""

_ATTEMPTS: Final = 3
_BETWEEN_ATTEMPTS_S: Final = 1.0
_CONTROL_S: Final = 5.0
_COUNTS_AT_ONCE: Final = 8
_COUNT_ATTEMPTS: Final = 50
_BETWEEN_COUNTS_S: Final = 0.2


def connect(target: Target) -> Client:
    """Open a client of the server with its limits; raises ScenarioError for what is no address, key or certificate.

    A request is tried once: what a retry would hide is to be seen.
    """
    timeout = Timeout(request_s=target.timeout_s, control_s=_CONTROL_S)
    try:
        return Client(target.url, timeout=timeout, api_key=_api_key(target), tls=_tls(target))
    except InvalidArgumentError as error:
        raise ScenarioError(f"target.{error}") from error


def _api_key(target: Target) -> str | None:
    if target.api_key_file is None:
        return None
    try:
        key = target.api_key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{target.api_key_file} cannot be read ({error})", "target.api_key_file") from error
    if not key:
        raise ScenarioError(f"{target.api_key_file} is empty; write the API key in it", "target.api_key_file")
    return key


def _tls(target: Target) -> Tls | None:
    files = target.tls
    if files is None:
        return None
    return Tls(ca=files.ca, certificate=files.certificate, key=files.key, server_name=files.server_name)


class Connections:
    """Clients that a phase's users take turns with, at most ``most``; each is opened when it is first taken."""

    def __init__(self, target: Target, most: int) -> None:
        self._target = target
        self._most = most
        self._clients: list[Client] = []
        self._taken = 0

    def take(self) -> tuple[Client, bool]:
        """Give the next client, and whether nobody had it before."""
        place, self._taken = self._taken % self._most, self._taken + 1
        is_new = place == len(self._clients)
        if is_new:
            self._clients.append(connect(self._target))
        return self._clients[place], is_new

    def close(self) -> None:
        """Hang up."""
        for client in self._clients:
            client.close()


def error_kind(error: FathomError) -> str:
    """Name the kind of an error as reports count it: the client's exception."""
    return type(error).__name__


def check_target(client: Client, scenario: Scenario) -> dict[str, str]:
    """Make sure that the server is up and serves the models; gives what it says of itself and them.

    Raises ServerError naming the server or the model.
    """
    found: dict[str, str] = {}
    for model in scenario.models:
        try:
            server = client.server_metadata()
            metadata = client.model_metadata(model)
        except FathomError as error:
            raise ServerError(f"cannot test {model!r} at {scenario.url}: {error}") from error
        named = f"{model}: " if len(scenario.models) > 1 else ""
        found |= {
            "server": f"{server.name} {server.version}",
            f"{named}model platform": metadata.platform,
            f"{named}model versions": ", ".join(metadata.versions),
        }
        if scenario.target.repository is not None:
            rows = passport_rows(scenario.target.repository, model, metadata.versions)
            found |= {f"{named}{name}": value for name, value in rows.items()}
    return found


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens of texts by asking the server, as the task's requests would send them."""

    client: Client
    task: TaskSpec

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """Give each text's number of tokens; raises ServerError where the server does not tell."""
        pool = Pool(_COUNTS_AT_ONCE)
        try:
            answers: list[int | FathomError] = pool.map(self._ask, texts)
        finally:
            pool.kill()
        for answer in answers:
            if isinstance(answer, FathomError):
                raise ServerError(f"{self.task.model!r} refuses a text of synthetic words: {answer}") from answer
        counts = [answer for answer in answers if isinstance(answer, int)]
        if min(counts) < 1:
            raise ServerError(
                f"{self.task.model!r} does not report num_input_tokens, which synthetic prompts are measured by; "
                "use --prompts"
            )
        return counts

    def _ask(self, text: str) -> int | FathomError:
        failure: FathomError | None = None
        for _ in range(_COUNT_ATTEMPTS):
            try:
                return self._count(text)
            except OverloadedError as error:  # a short queue, which others or our own questions fill
                failure = error
                time.sleep(_BETWEEN_COUNTS_S)
            except FathomError as error:
                failure = error
                break
        assert failure is not None  # noqa: S101 - there is at least one attempt
        return failure  # handed to the caller: gevent would print what a greenlet raises

    def _count(self, text: str) -> int:
        model = self.task.model
        match self.task.task:
            case "embed":
                return sum(self.client.embed(model, [text], batch_size=1).num_input_tokens)
            case "rerank":
                return sum(self.client.rerank(model, text, [WORDS[0]]).num_input_tokens)
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
