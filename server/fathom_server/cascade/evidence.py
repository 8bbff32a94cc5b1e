"""What is known of a small model's answer as it comes, and what the token signals make of it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fathom_client import protocol

TensorValues = Mapping[str, npt.NDArray[Any]]
"""A response's output tensors by name; elements of BYTES are ``bytes``."""


def entropy(logprobs: Sequence[float]) -> float:
    """Entropy, in nats, of the likeliest tokens and of all others taken as one: a lower bound of the true one."""
    likeliest = np.exp(np.asarray(logprobs, dtype=np.float64))
    others = max(0.0, 1.0 - float(likeliest.sum()))
    parts = np.append(likeliest, others)
    parts = parts[parts > 0]
    return float(-(parts * np.log(parts)).sum())


@dataclass(slots=True)
class SequenceEvidence:
    """One answer as far as it has come: its text, and a log-probability and an entropy (nats) a token."""

    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    finish_reason: str = ""

    def value(self, signal: str, most_tokens: int = 0) -> float:
        """A token signal of the first ``most_tokens`` tokens, 0 for all; NaN where there is no token."""
        numbers = self.logprobs if signal.endswith("logprob") else self.entropies
        numbers = numbers[:most_tokens] if most_tokens else numbers
        return _STATISTICS[signal](numbers) if numbers else math.nan


_STATISTICS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "mean_logprob": lambda numbers: float(np.mean(numbers)),
    "min_logprob": min,
    "mean_entropy": lambda numbers: float(np.mean(numbers)),
    "max_entropy": max,
}


class Evidence:
    """The small model's answers to one request, fed with its responses; one sequence unless several were asked for."""

    def __init__(self, sequences: int = 1) -> None:
        self.sequences = [SequenceEvidence() for _ in range(sequences)]
        self.input_tokens = 0
        self.output_tokens = 0

    def add(self, tensors: TensorValues) -> None:
        """Take a response's part of each answer in it; raises KeyError or ValueError where it does not fit."""
        counts = [int(count) for count in tensors[protocol.NUM_OUTPUT_TOKENS]]
        texts = [bytes(text).decode("utf-8", "replace") for text in tensors[protocol.TEXT_OUTPUT]]
        indices = [int(index) for index in tensors.get(protocol.SEQUENCE_INDEX, range(len(texts)))]
        reasons = [bytes(reason).decode() for reason in tensors.get(protocol.FINISH_REASON, [b""] * len(texts))]
        logprobs = [float(logprob) for logprob in tensors.get(protocol.OUTPUT_LOG_PROBS, ())]
        listed = tensors.get(protocol.LOGPROBS)
        if not self.input_tokens and protocol.NUM_INPUT_TOKENS in tensors:
            self.input_tokens = int(tensors[protocol.NUM_INPUT_TOKENS][0])
        self.output_tokens += sum(counts)
        begin = 0
        for place, (index, count) in enumerate(zip(indices, counts, strict=True)):
            sequence = self.sequences[index]
            sequence.text += texts[place]
            sequence.finish_reason = reasons[place] or sequence.finish_reason
            sequence.logprobs += logprobs[begin : begin + count]
            if listed is not None:
                sequence.entropies += [_entropy_of(token) for token in json.loads(bytes(listed[place]))]
            begin += count

    @property
    def tokens(self) -> int:
        """Tokens that every answer has, at least, or all of one that has ended."""
        return min(
            (len(each.logprobs) for each in self.sequences if not each.finish_reason),
            default=max(len(each.logprobs) for each in self.sequences),
        )

    def value(self, signal: str, most_tokens: int = 0) -> float:
        """A token signal of the most doubtful of the answers."""
        values = [each.value(signal, most_tokens) for each in self.sequences]
        if any(map(math.isnan, values)):
            return math.nan
        return max(values) if signal.endswith("entropy") else min(values)

    def features(self, sequence: SequenceEvidence) -> list[float]:
        """``TOKEN_FEATURES`` of one of the answers, which must have a token."""
        return [
            sequence.value("mean_logprob"),
            sequence.value("min_logprob"),
            sequence.value("mean_entropy"),
            sequence.value("max_entropy"),
            math.log(max(1, len(sequence.logprobs))),
            math.log(max(1, self.input_tokens)),
        ]


def _entropy_of(token: Mapping[str, Any]) -> float:
    return entropy([float(each["logprob"]) for each in token.get("top", ())] or [float(token["logprob"])])
