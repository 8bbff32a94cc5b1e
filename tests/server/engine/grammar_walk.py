"""Answers made under a grammar's masks, as an engine makes them, and what must hold at every step of the way."""

import ipaddress
import json
import random
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

import jsonschema
import numpy as np
import numpy.typing as npt

from fathom_server.engine.grammar import GrammarCompiler, Matcher
from fathom_server.engine.structured_output import StructuredOutput
from fathom_server.text.detokenizer import DetokenizerFactory
from fathom_server.text.tokenizer import TextTokenizer

MAX_TOKENS = 1500
"""A walk that is longer has lost itself."""

ENDERS = (('"', '"}', '"]', '",'), ("@", ":"), ("}", "]", "}]", "}}"), (")",), (",",))
"""What brings a JSON text to its end: strings, then what e-mail addresses and URIs wait for, brackets, commas."""

Choose = Callable[[npt.NDArray[np.int64], list[int]], int]
"""Chooses one of the allowed ids, given the answer so far."""


@dataclass(frozen=True, slots=True)
class Model:
    """A tokenizer with the grammars of its vocabulary."""

    tokenizer: TextTokenizer
    vocabulary: int
    eos_token_ids: frozenset[int]
    never: frozenset[int]
    compiler: GrammarCompiler

    @classmethod
    def of(cls, tokenizer: TextTokenizer, vocabulary: int, eos_token_ids: frozenset[int]) -> "Model":
        """``never`` is what no mask may allow: special tokens but the ends, and ids that only pad."""
        added = json.loads(tokenizer.tokenizer.to_str())["added_tokens"]
        special = {entry["id"] for entry in added if entry["special"]} - eos_token_ids
        never = frozenset(special | set(range(tokenizer.tokenizer.get_vocab_size(), vocabulary)))
        return cls(tokenizer, vocabulary, eos_token_ids, never, GrammarCompiler(tokenizer, vocabulary, eos_token_ids))

    @property
    def words(self) -> int:
        """Words of a mask."""
        return -(-self.vocabulary // 32)

    def text(self, token_ids: list[int]) -> str:
        """What the caller reads."""
        detokenizer = DetokenizerFactory(self.tokenizer.tokenizer).new()
        return "".join(detokenizer.push([token]) for token in token_ids)

    def matcher(self, kind: str, value: str = "") -> Matcher:
        """A matcher at the beginning of an answer."""
        return self.compiler.compile(StructuredOutput(kind, value)).matcher()  # type: ignore[arg-type]


def allowed(mask: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The ids whose bits are set."""
    return np.unpackbits(mask.view(np.uint8), bitorder="little").nonzero()[0]


def next_allowed(model: Model, matcher: Matcher) -> npt.NDArray[np.int64]:
    """The ids that may come now."""
    row = np.full((1, model.words), -1, dtype=np.int32)
    assert matcher.masks((), row) == 1
    return allowed(row[0])


def walk(model: Model, matcher: Matcher, choose: Choose) -> str:
    """Make an answer to its end; every mask on the way is held against what masks promise."""
    answer: list[int] = []
    while True:
        ids = next_allowed(model, matcher)
        assert matcher.error is None, f"{matcher.error} after {model.text(answer)!r}"
        assert len(ids), f"nothing is allowed after {model.text(answer)!r}"
        assert not model.never & set(ids.tolist()), "special and padding tokens are never allowed"
        ends = model.eos_token_ids & set(ids.tolist())
        assert ends == (model.eos_token_ids if matcher.can_end else set()), "every end where it may end, none elsewhere"
        if matcher.is_complete:
            assert set(ids.tolist()) == model.eos_token_ids, "a finished grammar ends the sequence"
            return model.text(answer)
        forced = matcher.forced()
        if forced:
            _check_forced(model, matcher, forced)
            for token in forced:
                matcher.advance(token)
            answer += forced
            continue
        token = choose(ids, answer)
        if token in model.eos_token_ids:
            matcher.advance(token)
            assert matcher.is_complete
            return model.text(answer)
        matcher.advance(token)
        answer.append(token)
        assert len(answer) < MAX_TOKENS, f"no end: {model.text(answer)[-300:]!r}"


def _check_forced(model: Model, matcher: Matcher, forced: list[int]) -> None:
    rows = np.full((len(forced) + 1, model.words), -1, dtype=np.int32)
    assert matcher.masks(forced, rows) == len(forced) + 1
    for token, row in zip(forced, rows, strict=False):
        assert allowed(row).tolist() == [token], "a forced token is the only one that its mask allows"
    assert matcher.forced() == forced


def at_random(model: Model, seed: int, free: int = 30) -> Choose:
    """``free`` tokens of any kind, then those that bring an answer to its end."""
    generator = random.Random(seed)
    spelled = [{model.tokenizer.tokenizer.token_to_id(text) for text in texts} for texts in ENDERS]
    preferences = [model.eos_token_ids, *spelled]

    def choose(ids: npt.NDArray[np.int64], answer: list[int]) -> int:
        if len(answer) >= free and generator.random() < 0.7:
            for preferred in preferences:
                if ending := [token for token in ids.tolist() if token in preferred]:
                    return int(generator.choice(ending))
        return int(ids[generator.randrange(len(ids))])

    return choose


def parsed(text: str) -> Any:
    """A JSON value, its numbers exact."""
    return json.loads(text, parse_float=_exact, parse_constant=_no_constant)


def check_json(text: str, schema: Any) -> None:
    """The text is JSON that the schema admits, by the jsonschema package, formats included."""
    value, exact = parsed(text), parsed(json.dumps(schema))
    validator = jsonschema.validators.validator_for(exact if isinstance(exact, dict) else {})
    validator(exact, format_checker=FORMATS).validate(value)
    if not isinstance(value, str):
        assert not re.search(r"^\s|\s$|\n", text), "no white space around, no line breaks"


def _exact(number: str) -> Decimal:
    """A number without bounds may have any exponent, and some are beyond what Decimal holds."""
    try:
        return Decimal(number)
    except InvalidOperation:
        return Decimal("Infinity").copy_sign(-1 if number.startswith("-") else 1)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


FORMATS = jsonschema.FormatChecker(formats=())


def _format(name: str) -> Callable[[Callable[[str], object]], Callable[[str], object]]:
    def add(parse: Callable[[str], object]) -> Callable[[str], object]:
        FORMATS.checks(name, raises=ValueError)(lambda value: not isinstance(value, str) or parse(value) is not False)
        return parse

    return add


@_format("date")
def _date(value: str) -> object:
    return date.fromisoformat(value)


@_format("time")
def _time(value: str) -> object:
    return time.fromisoformat(value).tzinfo is not None


@_format("date-time")
def _date_time(value: str) -> object:
    return datetime.fromisoformat(value).tzinfo is not None


@_format("email")
def _email(value: str) -> object:
    return re.fullmatch(r"[^@\s]+@([A-Za-z0-9.-]+|\[[0-9.]+\])", value) is not None


@_format("hostname")
def _hostname(value: str) -> object:
    return all(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", part) for part in value.split("."))


@_format("ipv4")
def _ipv4(value: str) -> object:
    return ipaddress.IPv4Address(value)


@_format("ipv6")
def _ipv6(value: str) -> object:
    return ipaddress.IPv6Address(value)


@_format("uuid")
def _uuid(value: str) -> object:
    return str(uuid.UUID(value)) == value.lower()


@_format("uri")
def _uri(value: str) -> object:
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]*", value) is not None


@_format("duration")
def _duration(value: str) -> object:
    dated = r"(\d+Y(\d+M(\d+D)?)?|\d+M(\d+D)?|\d+D)"
    timed = r"T(\d+H(\d+M(\d+S)?)?|\d+M(\d+S)?|\d+S)"
    return re.fullmatch(rf"P({dated}({timed})?|{timed}|\d+W)", value) is not None
