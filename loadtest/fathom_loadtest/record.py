"""What happened to one request, to the nanosecond."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, from the moment before it was sent to the moment its answer was whole or had failed.

    Times are ``time.perf_counter_ns()`` of the generator: monotonic, comparable within one run. ``response_ns`` and
    ``response_tokens`` go together: when each response arrived and how many output tokens the server said it carries
    (a vector answer is one response of 0 tokens). The token totals are the server's own. ``error_kind`` is None for
    a request that succeeded.

    ``intended_ns`` is when a request of an open loop was due, at or before ``start_ns``; None in a closed loop.
    ``task`` is the scenario's name for what was asked, ``model`` who was asked. ``conversation`` and ``turn`` (from 0)
    tell the requests of one chat apart from the others; None and 0 outside. ``cancelled`` means that the scenario
    itself left the answer before its end: no error, ``response_ns`` and ``num_output_tokens`` are of what had come.
    ``worker`` is the number of the process that sent it; its times are moved to the clock of the process that leads.
    """

    stage: int
    index: int
    start_ns: int
    end_ns: int
    response_ns: tuple[int, ...] = ()
    response_tokens: tuple[int, ...] = ()
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    finish_reason: str | None = None
    error_kind: str | None = None
    error_message: str | None = None
    intended_ns: int | None = None
    task: str = ""
    model: str = ""
    conversation: int | None = None
    turn: int = 0
    cancelled: bool = False
    worker: int = 0

    @property
    def due_ns(self) -> int:
        """When the request should have been sent: what a caller waits from, SLOs included."""
        return self.start_ns if self.intended_ns is None else self.intended_ns

    @property
    def succeeded(self) -> bool:
        """Whether the whole answer came."""
        return self.error_kind is None

    @property
    def content_ns(self) -> tuple[int, ...]:
        """When the responses with content arrived: those that carry tokens, or all where none does."""
        if 0 not in self.response_tokens:
            return self.response_ns
        carrying = tuple(at for at, tokens in zip(self.response_ns, self.response_tokens, strict=True) if tokens)
        return carrying or self.response_ns

    def to_json(self) -> dict[str, Any]:
        """Every field under its own name."""
        return {name: getattr(self, name) for name in _NAMES}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Undo ``to_json``."""
        times, tokens = tuple(values["response_ns"]), tuple(values["response_tokens"])
        return cls(**{**values, "response_ns": times, "response_tokens": tokens})

    def moved(self, by_ns: int) -> Self:
        """Give the same request on a clock that shows ``by_ns`` more."""
        intended_ns = None if self.intended_ns is None else self.intended_ns + by_ns
        return replace(
            self,
            start_ns=self.start_ns + by_ns,
            end_ns=self.end_ns + by_ns,
            response_ns=tuple(at + by_ns for at in self.response_ns),
            intended_ns=intended_ns,
        )


_NAMES = tuple(field.name for field in fields(RequestRecord))
