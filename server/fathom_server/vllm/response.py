"""What one response of Triton's vLLM backend says of an answer, since the last one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

from fathom_client import protocol
from fathom_server.engine.sampler import Choice, TokenLogprob

_UNFINISHED: Final = "None"
"""What the backend writes where Python has no reason yet."""


@dataclass(frozen=True, slots=True)
class Delta:
    """New text, tokens and how they were chosen; the reason if the answer ends here; tokens of the prompt."""

    text: str
    choices: tuple[Choice, ...]
    finish_reason: str | None
    num_input_tokens: int


def read_delta(outputs: Mapping[str, npt.NDArray[Any]], top: int) -> Delta:
    """Read a response's tensors, each of one element; raises ValueError or KeyError for one of another form.

    ``top`` is how many of the likeliest tokens were asked for beside the chosen one.
    """
    count = int(outputs[protocol.NUM_OUTPUT_TOKENS].reshape(-1)[0])
    reason = _text(outputs, protocol.FINISH_REASON)
    listed = json.loads(_text(outputs, protocol.LOGPROBS)) or []
    choices = tuple(_choice(entry, top) for entry in listed[:count])
    if len(choices) != count:
        raise ValueError(f"{count} tokens, but log-probabilities of {len(choices)}")
    return Delta(
        text=_text(outputs, protocol.TEXT_OUTPUT),
        choices=choices,
        finish_reason=None if reason == _UNFINISHED else reason,
        num_input_tokens=int(outputs[protocol.NUM_INPUT_TOKENS].reshape(-1)[0]),
    )


def _choice(entry: Mapping[str, Mapping[str, Any]], top: int) -> Choice:
    """A token: vLLM puts the chosen one first, then the likeliest, among which it may be; each has its rank."""
    (chosen, first), *_ = entry.items()
    ranked = sorted((each["rank"], int(token), each["logprob"]) for token, each in entry.items())
    likeliest = tuple(TokenLogprob(token, logprob) for rank, token, logprob in ranked if rank <= top)
    return Choice(int(chosen), float(first["logprob"]), likeliest)


def _text(outputs: Mapping[str, npt.NDArray[Any]], name: str) -> str:
    value = outputs[name].reshape(-1)[0]
    return str(value.decode() if isinstance(value, bytes) else value)
