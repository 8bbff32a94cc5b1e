"""What a cascade counts; written on its own thread, read from any."""

from dataclasses import dataclass, field

from fathom_server.cascade.details import Cost, Details
from fathom_server.engine.metrics import Histogram


@dataclass(slots=True)
class CascadeMetrics:
    """Counters since the start.

    ``answers`` are by who answered and why, ``tokens`` by model (small, large) and kind (input, output); ``held`` are
    the seconds that small answers waited for the decision. ``running`` requests are under way.
    """

    running: int = 0
    answers: dict[tuple[str, str], int] = field(default_factory=dict)
    tokens: dict[tuple[str, str], int] = field(
        default_factory=lambda: {(role, kind): 0 for role in ("small", "large") for kind in ("input", "output")}
    )
    held: Histogram = field(default_factory=Histogram)

    def count_answer(self, details: Details) -> None:
        """Count an answer that is whole."""
        key = (details.answered_by, details.reason)
        self.answers[key] = self.answers.get(key, 0) + 1

    def count_costs(self, details: Details) -> None:
        """Count what a request took, however it ended."""
        for role, cost in (("small", details.small), ("large", details.large)):
            self._add(role, cost)
        if details.held_s:
            self.held.observe(details.held_s)

    def _add(self, role: str, cost: Cost) -> None:
        self.tokens[role, "input"] += cost.input_tokens
        self.tokens[role, "output"] += cost.output_tokens
