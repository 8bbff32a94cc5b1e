"""One answer as it comes in, and the caller who may leave it early."""

import time
from dataclasses import dataclass, field

import gevent

from fathom_client import CallTimes, GenerationStream
from fathom_loadtest.scenario import Cancellation


@dataclass(slots=True)
class Answer:
    """One answer as it comes in; ``sent_ns`` is when its request, built by then, was sent."""

    sent_ns: int | None = None
    response_ns: list[int] = field(default_factory=list)
    response_tokens: list[int] = field(default_factory=list)
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    finish_reason: str | None = None
    text: str = ""
    cancelled: bool = False

    def take_times(self, times: CallTimes) -> None:
        """Note when a request for no stream left, and when its response came."""
        self.sent_ns = times.sent_ns
        self.response_ns.append(times.received_ns)
        self.response_tokens.append(0)

    def respond(self, tokens: int) -> None:
        """Note that a response with so many output tokens arrived now."""
        self.response_ns.append(time.perf_counter_ns())
        self.response_tokens.append(tokens)
        self.num_output_tokens += tokens


@dataclass(slots=True)
class Departure:
    """A caller who leaves: after so many tokens, or after so many seconds, unless the answer is whole by then."""

    cancellation: Cancellation
    left: bool = False
    _timer: gevent.Greenlet | None = None

    def watch(self, stream: GenerationStream) -> None:
        """Begin to count the seconds."""
        if self.cancellation.after_s is not None:
            self._timer = gevent.spawn_later(self.cancellation.after_s, self.leave, stream)

    def is_due(self, tokens: int) -> bool:
        """Whether the caller leaves now that so many tokens have come."""
        return self.cancellation.after_tokens is not None and tokens >= self.cancellation.after_tokens

    def leave(self, stream: GenerationStream) -> None:
        """Leave the stream, which cancels the request at the server."""
        self.left = True
        stream.close()

    def over(self) -> None:
        """Stop counting."""
        if self._timer is not None:
            self._timer.kill(block=False)
