"""How an answer is chosen and when it ends."""

import math
from dataclasses import dataclass
from typing import Final

from fathom_client import protocol
from fathom_server.engine.structured_output import StructuredOutput
from fathom_server.errors import InvalidRequestError

MAX_STOP_STRINGS: Final = 16
MAX_STOP_TOKEN_IDS: Final = 128
MAX_BAD_WORDS: Final = 256
MAX_LOGIT_BIASES: Final = 1024
MAX_SEED: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """What a caller may say about an answer; names and meanings are vLLM's.

    ``n`` answers are given, the most probable of ``best_of`` (None: as many as ``n``) by log-probability a token.
    Greedy while ``temperature`` is 0: more than one sequence would then be the same one again, and is refused.
    ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 and ``typical_p`` 1 keep every token. ``repetition_penalty`` (Keskar et al.
    2019) is over prompt and answer, ``presence_penalty`` and ``frequency_penalty`` over the answer alone.
    ``logit_bias`` pairs a token id with what is added to its logit. ``bad_words`` never appear, ``stop`` ends an answer
    and appears only with ``include_stop_str_in_output``, ``stop_token_ids`` end it like the model's own end tokens.
    ``skip_special_tokens`` False shows special tokens by their names, all but the one that ends the answer.
    ``ignore_eos`` goes on past the model's end tokens, for load tests of a fixed length. Before ``min_tokens`` no token
    ends the answer; ``max_tokens`` None leaves the longest to the engine. ``seed`` makes a sampled answer repeatable,
    alone and in company. ``logprobs`` asks for the chosen tokens' log-probabilities and those of so many likeliest
    ones, ``prompt_logprobs`` for the prompt's. ``structured_outputs`` is the structure that the answer must have;
    where it leaves only tokens that ``bad_words`` or ``min_tokens`` forbid, the structure wins.

    Raises InvalidRequestError for a value out of range and for values that contradict each other.
    """

    n: int = 1
    best_of: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structured_outputs: StructuredOutput | None = None

    def __post_init__(self) -> None:
        _check_integer("n", self.n, 1, protocol.MAX_SEQUENCES)
        _check_integer("best_of", self.best_of, 1, protocol.MAX_SEQUENCES)
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequestError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if self.min_tokens < 0:
            raise InvalidRequestError(f"min_tokens is {self.min_tokens}; it must be 0 (no least length) or more")
        _check_number("temperature", self.temperature, 0.0, protocol.MAX_TEMPERATURE, meaning={0.0: "greedy"})
        if self.top_k < 0:
            raise InvalidRequestError(f"top_k is {self.top_k}; it must be 0 (every token) or more")
        _check_number("top_p", self.top_p, 0.0, 1.0, above=True)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("typical_p", self.typical_p, 0.0, 1.0, above=True)
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0.0):
            raise InvalidRequestError(
                f"repetition_penalty is {self.repetition_penalty}; it must be above 0 (1 changes nothing) and finite"
            )
        _check_number("presence_penalty", self.presence_penalty, -protocol.MAX_PENALTY, protocol.MAX_PENALTY)
        _check_number("frequency_penalty", self.frequency_penalty, -protocol.MAX_PENALTY, protocol.MAX_PENALTY)
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise InvalidRequestError(f"seed is {self.seed}; it must be between 0 and 2^64 - 1")
        _check_integer("logprobs", self.logprobs, 0, protocol.MAX_LOGPROBS)
        _check_integer("prompt_logprobs", self.prompt_logprobs, 0, protocol.MAX_LOGPROBS)
        self._check_biases()
        _check_strings("stop", "stop string", self.stop, MAX_STOP_STRINGS)
        _check_strings("bad_words", "bad word", self.bad_words, MAX_BAD_WORDS)
        if len(self.stop_token_ids) > MAX_STOP_TOKEN_IDS:
            raise InvalidRequestError(
                f"stop_token_ids has {len(self.stop_token_ids)} ids; at most {MAX_STOP_TOKEN_IDS} are taken"
            )
        self._check_contradictions()

    @property
    def sequences(self) -> int:
        """How many sequences are computed: ``best_of``, of which ``n`` are given."""
        return self.n if self.best_of is None else self.best_of

    @property
    def wants_logprobs(self) -> bool:
        """Whether the chosen tokens' log-probabilities are needed: asked for, or to find the best of several."""
        return self.logprobs is not None or self.sequences > self.n

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the next token is always the largest logit that the structure, if any, allows."""
        return (
            self.temperature == 0.0
            and self.repetition_penalty == 1.0
            and self.presence_penalty == 0.0
            and self.frequency_penalty == 0.0
            and self.min_tokens == 0
            and not self.logit_bias
            and not self.bad_words
        )

    def check_vocabulary(self, size: int) -> None:
        """Raise InvalidRequestError for a token id that a vocabulary of ``size`` tokens does not have."""
        for name, ids in (
            ("logit_bias", [token for token, _ in self.logit_bias]),
            ("stop_token_ids", list(self.stop_token_ids)),
        ):
            strangers = [token for token in ids if not 0 <= token < size]
            if strangers:
                raise InvalidRequestError(
                    f"{name} holds the token id {strangers[0]}; the vocabulary has the ids 0 to {size - 1}"
                )

    def _check_biases(self) -> None:
        if len(self.logit_bias) > MAX_LOGIT_BIASES:
            raise InvalidRequestError(
                f"logit_bias has {len(self.logit_bias)} ids; at most {MAX_LOGIT_BIASES} are taken"
            )
        for token, bias in self.logit_bias:
            _check_number(f"logit_bias of token {token}", bias, -protocol.MAX_LOGIT_BIAS, protocol.MAX_LOGIT_BIAS)
        ids = [token for token, _ in self.logit_bias]
        if len(set(ids)) < len(ids):
            twice = next(token for token in ids if ids.count(token) > 1)
            raise InvalidRequestError(f"logit_bias names the token id {twice} twice; give one bias a token")

    def _check_contradictions(self) -> None:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                f"min_tokens is {self.min_tokens} and max_tokens {self.max_tokens}; lower the one or raise the other"
            )
        if self.best_of is not None and self.best_of < self.n:
            raise InvalidRequestError(f"best_of is {self.best_of} and n {self.n}; best_of must be at least n")
        if self.temperature == 0.0 and self.sequences > 1:
            name, value = ("n", self.n) if self.best_of is None else ("best_of", self.best_of)
            raise InvalidRequestError(
                f"{name} is {value} and temperature 0, which gives the same answer each time; "
                f"set temperature above 0, or {name} to 1"
            )
        if self.ignore_eos and self.structured_outputs is not None:
            raise InvalidRequestError(
                "ignore_eos contradicts structured_outputs, whose answer ends where its structure does; send one"
            )


def _check_integer(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise InvalidRequestError(f"{name} is {value}; it must be between {low} and {high}")


def _check_number(
    name: str, value: float, low: float, high: float, *, above: bool = False, meaning: dict[float, str] | None = None
) -> None:
    """Refuse NaN, infinity and what lies outside ``low..high``, ``low`` itself too if ``above``."""
    if math.isfinite(value) and low <= value <= high and not (above and value == low):
        return
    if above:
        limits = f"above {low:g} and at most {high:g}"
    else:
        note = f" ({meaning[low]})" if meaning else ""
        limits = f"between {low:g}{note} and {high:g}"
    raise InvalidRequestError(f"{name} is {value}; it must be {limits}")


def _check_strings(name: str, noun: str, strings: tuple[str, ...], most: int) -> None:
    if len(strings) > most:
        raise InvalidRequestError(f"{len(strings)} {noun}s; at most {most} are taken in {name}")
    if "" in strings:
        raise InvalidRequestError(f"a {noun} is empty; leave it out of {name}")
