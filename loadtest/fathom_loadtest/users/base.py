"""What users of every task share: the closed loop, the clock, the record and Locust's own event."""

import time
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import gevent
from locust import User, constant, task
from locust.exception import StopUser

from fathom_client import FathomError
from fathom_loadtest.phase import Phase
from fathom_loadtest.prompts import Prompt
from fathom_loadtest.recorder import RequestRecord
from fathom_loadtest.target import ServerWatch, connect, error_kind

PAUSE_AFTER_ERROR_S = 0.1
"""A user waits so long after a failed request: a server that refuses at once is not asked in a tight loop."""


@dataclass(slots=True)
class Answer:
    """One answer as it comes in."""

    response_ns: list[int] = field(default_factory=list)
    response_tokens: list[int] = field(default_factory=list)
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    finish_reason: str | None = None

    def respond(self, tokens: int) -> None:
        """Note that a response with so many output tokens arrived now."""
        self.response_ns.append(time.perf_counter_ns())
        self.response_tokens.append(tokens)


class LoadUser(User):  # type: ignore[misc] # locust publishes no types
    """Sends one request after the other, without a pause, until its phase gives no further index."""

    abstract = True
    wait_time = constant(0)
    phase: ClassVar[Phase]
    watch: ClassVar[ServerWatch]

    def on_start(self) -> None:
        """Connect, then wait for the other users, so that no request pays for a connection."""
        self.connection = connect(self.phase.scenario)
        self.watch.check(self.connection)
        self.phase.connected()

    def on_stop(self) -> None:
        """Hang up."""
        self.connection.close()

    @task  # type: ignore[untyped-decorator] # as above
    def request(self) -> None:
        """Send the phase's next request, record it and tell Locust."""
        index = self.phase.take_index() if self.watch.lost is None else None
        if index is None:
            raise StopUser
        prompt = self.phase.prompts.prompt(self.phase.name, index)
        answer, error = Answer(), None
        start_ns = time.perf_counter_ns()
        try:
            self.ask(prompt, answer)
        except FathomError as caught:
            error = caught
        end_ns = time.perf_counter_ns()
        self.phase.recorder.add(
            RequestRecord(
                stage=self.phase.stage,
                index=index,
                start_ns=start_ns,
                end_ns=end_ns,
                response_ns=tuple(answer.response_ns),
                response_tokens=tuple(answer.response_tokens),
                num_input_tokens=answer.num_input_tokens,
                num_output_tokens=answer.num_output_tokens,
                finish_reason=answer.finish_reason,
                error_kind=None if error is None else error_kind(error),
                error_message=None if error is None else str(error),
            )
        )
        self.environment.events.request.fire(
            request_type="grpc",
            name=self.phase.scenario.model,
            response_time=(end_ns - start_ns) / 1e6,
            response_length=sum(answer.response_tokens),
            exception=error,
            context=self.context(),
        )
        if error is not None:
            self.watch.check_after(error, self.connection)
            gevent.sleep(PAUSE_AFTER_ERROR_S)

    @abstractmethod
    def ask(self, prompt: Prompt, answer: Answer) -> None:
        """Send one request and fill ``answer`` as its responses arrive; raises FathomError where it fails."""
