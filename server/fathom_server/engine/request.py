"""A request, its sampling parameters, its state and its deadline."""

import math
import secrets
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol

import numpy as np

from fathom_server.errors import InvalidRequestError, RequestError
from fathom_server.text.detokenizer import Detokenizer
from fathom_server.text.stop_strings import StopStringFilter

MAX_STOP_STRINGS: Final = 16


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How an answer is chosen and when it ends.

    Greedy while ``temperature`` is 0. ``top_k`` 0 and ``top_p`` 1 keep every token. ``repetition_penalty`` (Keskar et
    al. 2019, as transformers applies it: over prompt and answer) 1 changes nothing. ``seed`` makes a sampled answer
    repeatable, alone and in company. ``max_tokens`` None leaves it to the engine. ``ignore_eos`` goes on past the
    model's end token, for load tests of a fixed length. Raises InvalidRequestError for a value out of range.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequestError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not (math.isfinite(self.temperature) and 0.0 <= self.temperature <= 100.0):
            raise InvalidRequestError(f"temperature is {self.temperature}; it must be between 0 (greedy) and 100")
        if self.top_k < 0:
            raise InvalidRequestError(f"top_k is {self.top_k}; it must be 0 (every token) or more")
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidRequestError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0.0):
            raise InvalidRequestError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise InvalidRequestError(f"seed is {self.seed}; it must be between 0 and 2^64 - 1")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidRequestError(f"{len(self.stop)} stop strings; at most {MAX_STOP_STRINGS} are taken")
        if "" in self.stop:
            raise InvalidRequestError("a stop string is empty; leave it out")

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the next token is simply the largest logit."""
        return self.temperature == 0.0 and self.repetition_penalty == 1.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer: text that is certain, the tokens since the last piece, and at the end the reason."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None = None


class AnswerSink(Protocol):
    """Where a request's answer goes. Called from the engine's thread, so it must not block."""

    def on_piece(self, piece: Piece) -> None:
        """Take the next piece; the one with a finish reason is the last call."""
        ...

    def on_error(self, error: RequestError) -> None:
        """Take the reason why there will be no more; the last call."""
        ...


class RequestState(Enum):
    """Where a request stands."""

    WAITING = auto()
    PREFILLING = auto()
    DECODING = auto()
    ENDED = auto()


@dataclass(slots=True, eq=False)
class Request:
    """One prompt on its way to an answer; owned by the engine's thread once submitted.

    ``computed_tokens`` counts the tokens whose keys and values stand in the cache. ``deadline`` is a
    ``time.monotonic()`` instant in seconds.
    """

    id: str
    prompt_ids: list[int]
    sampling: SamplingParameters
    max_tokens: int
    deadline: float
    sink: AnswerSink
    detokenizer: Detokenizer
    state: RequestState = RequestState.WAITING
    computed_tokens: int = 0
    output_ids: list[int] = field(default_factory=list)
    cancelled: bool = False
    stop_filter: StopStringFilter = field(init=False)
    generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.stop_filter = StopStringFilter(self.sampling.stop)
        seed = self.sampling.seed if self.sampling.seed is not None else secrets.randbits(64)
        self.generator = np.random.Generator(np.random.Philox(key=seed))

    @property
    def remaining_prompt_tokens(self) -> int:
        """Prompt tokens that prefill has yet to compute."""
        return len(self.prompt_ids) - self.computed_tokens

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.deadline
