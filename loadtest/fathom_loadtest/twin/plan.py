"""What one request will get, settled on its arrival: settings, its own wishes, and chance."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fathom_client import protocol
from fathom_loadtest.errors import RefusedRequest, TwinError
from fathom_loadtest.twin.distribution import Distribution
from fathom_loadtest.twin.faults import Fault, FaultKind, check_code
from fathom_loadtest.twin.settings import GenerateTwin

MAX_ANSWER_TOKENS: Final = 131072
"""The twin's context: no answer is longer, whatever ``max_tokens`` says."""

TTFT: Final = "twin_ttft_ms"
ITL: Final = "twin_itl_ms"
OUTPUT_TOKENS: Final = "twin_output_tokens"
TOKENS_PER_RESPONSE: Final = "twin_tokens_per_response"
ERROR: Final = "twin_error"
STALL_AFTER: Final = "twin_stall_after_tokens"
BREAK_AFTER: Final = "twin_break_after_tokens"
CUT_AFTER: Final = "twin_cut_after_tokens"
LATENCY: Final = "twin_latency_ms"

_FAULTS: Final[Mapping[str, FaultKind]] = {STALL_AFTER: "stall", BREAK_AFTER: "break", CUT_AFTER: "cut"}
GENERATE_PARAMETERS: Final = (TTFT, ITL, OUTPUT_TOKENS, TOKENS_PER_RESPONSE, ERROR, *_FAULTS)
"""Request parameters that override an LLM's settings for one request; times take a distribution's text, too."""
ENCODER_PARAMETERS: Final = (LATENCY, ERROR)
"""The same of an encoder; a batch takes as long as the slowest of its requests."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request's own tensors say of its answer's length."""

    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """An answer as it will go.

    ``ttft_s`` seconds after admission comes the first of ``tokens`` tokens, each later one ``itl_ms`` after the one
    before; after the first, ``tokens_per_response`` travel together. ``finish_reason`` is told with the last.
    """

    ttft_s: float
    itl_ms: Distribution
    tokens: int
    tokens_per_response: int
    finish_reason: str
    fault: Fault | None = None
    stall_s: float = math.inf


def plan_answer(
    settings: GenerateTwin, wishes: Wishes, parameters: Mapping[str, Any], rng: random.Random
) -> AnswerPlan:
    """Draw what a request gets; raises RefusedRequest for one that is refused, by chance or for its parameters."""
    refuse_unknown(parameters, (*GENERATE_PARAMETERS, protocol.CLIENT_PARAMETER))
    refuse_by_chance(settings.fault_rates().draw_error(rng), parameters)
    ttft_ms = distribution(parameters, TTFT, settings.ttft_ms).draw(rng)
    own_length = round(distribution(parameters, OUTPUT_TOKENS, settings.output_tokens).draw(rng))
    tokens, finish_reason = _length(wishes, max(1, own_length))
    drawn = settings.fault_rates().draw_fault(rng, tokens)
    return AnswerPlan(
        ttft_s=ttft_ms / 1e3,
        itl_ms=distribution(parameters, ITL, settings.itl_ms),
        tokens=tokens,
        tokens_per_response=_integer(parameters, TOKENS_PER_RESPONSE, settings.tokens_per_response, low=1),
        finish_reason=finish_reason,
        fault=_wished_fault(parameters) or drawn,
        stall_s=settings.stall_s,
    )


def refuse_unknown(parameters: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse request parameters that nobody would read; raises RefusedRequest."""
    stranger = next((name for name in parameters if name not in known), None)
    if stranger is not None:
        raise RefusedRequest(
            "INVALID_ARGUMENT", f"{stranger!r} is no input or parameter of the twin's; parameters: {', '.join(known)}"
        )


def refuse_by_chance(drawn: str | None, parameters: Mapping[str, Any]) -> None:
    """Refuse a request by the code that was drawn for it or that it asks for itself; raises RefusedRequest."""
    if ERROR in parameters:
        try:
            drawn = check_code(parameters[ERROR])
        except TwinError as error:
            raise RefusedRequest("INVALID_ARGUMENT", f"{ERROR}: {error}") from None
    if drawn is not None:
        prefix = protocol.DEADLINE_PREFIX if drawn == "DEADLINE_EXCEEDED" else ""
        raise RefusedRequest(drawn, f"{prefix}the twin was told to answer {drawn}")


def distribution(parameters: Mapping[str, Any], name: str, otherwise: Distribution) -> Distribution:
    """Give a request's own distribution, or the setting's; raises RefusedRequest."""
    if name not in parameters:
        return otherwise
    try:
        return Distribution.parse(parameters[name])
    except TwinError as error:
        raise RefusedRequest("INVALID_ARGUMENT", f"{name}: {error}") from None


def _length(wishes: Wishes, own: int) -> tuple[int, str]:
    """Tokens of an answer, and why it ends there."""
    most = MAX_ANSWER_TOKENS if wishes.max_tokens is None else min(wishes.max_tokens, MAX_ANSWER_TOKENS)
    wanted = most if wishes.ignore_eos else max(own, wishes.min_tokens)
    return (most, protocol.FINISH_LENGTH) if wanted >= most else (wanted, protocol.FINISH_STOP)


def _wished_fault(parameters: Mapping[str, Any]) -> Fault | None:
    wished = [Fault(kind, _integer(parameters, name, 0, low=0)) for name, kind in _FAULTS.items() if name in parameters]
    if len(wished) > 1:
        raise RefusedRequest("INVALID_ARGUMENT", f"an answer can have one fault; give one of {', '.join(_FAULTS)}")
    return wished[0] if wished else None


def _integer(parameters: Mapping[str, Any], name: str, otherwise: int, *, low: int) -> int:
    value = parameters.get(name, otherwise)
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RefusedRequest("INVALID_ARGUMENT", f"{name} is {value!r}; it must be a whole number of at least {low}")
    return value
