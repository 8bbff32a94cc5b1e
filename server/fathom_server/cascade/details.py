"""What an answer of a cascade cost, and why it is whose it is."""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

Reason = Literal[
    "trusted",
    "doubted",
    "route_length",
    "route_task",
    "route_pattern",
    "route_prompt",
    "budget",
    "large_unavailable",
    "small_unavailable",
]
"""Why an answer is whose it is.

``trusted`` and ``doubted``: by the signal. ``route_…``: a rule sent the request to the large model straight away.
``budget``: the small model's, since no more could be handed over. ``large_unavailable``: the small model's, since the
large one refused or could not be reached. ``small_unavailable``: the other way round."""

Answerer = Literal["small", "large"]


@dataclass(slots=True)
class Cost:
    """Tokens that one of the models has read and written for a request, those of broken-off answers among them."""

    model: str
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Details:
    """A request's way through the cascade. ``value`` is the signal's, None where nobody looked.

    ``held_s`` is how long the small answer's first part waited for the decision.
    """

    signal: str
    threshold: float
    small: Cost
    large: Cost
    answered_by: Answerer = "small"
    reason: Reason = "trusted"
    value: float | None = None
    large_error: str = ""
    held_s: float = 0.0

    def as_json(self) -> str:
        """As callers get it."""
        told: dict[str, Any] = {
            "answered_by": self.answered_by,
            "reason": self.reason,
            "signal": self.signal,
            "value": None if self.value is None or not math.isfinite(self.value) else self.value,
            "threshold": self.threshold,
            "held_s": round(self.held_s, 6),
        }
        for name, cost in (("small", self.small), ("large", self.large)):
            told[name] = {
                "model": cost.model,
                "input_tokens": cost.input_tokens,
                "output_tokens": cost.output_tokens,
            }
        if self.large_error:
            told["large_error"] = self.large_error
        return json.dumps(told, ensure_ascii=False)
