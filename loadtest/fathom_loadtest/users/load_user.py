"""The user of every load test: takes the phase's items, sends their requests, records them and tells Locust."""

import time
from functools import partial
from typing import ClassVar, Final

import gevent
from locust import User, constant, task
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_STOPPING

from fathom_client import FathomError
from fathom_loadtest.content.prompt import Message, Prompt
from fathom_loadtest.phase import Phase
from fathom_loadtest.record import RequestRecord
from fathom_loadtest.target import Connections, ServerWatch, error_kind
from fathom_loadtest.users.answer import Answer, Departure
from fathom_loadtest.users.asking import ASK
from fathom_loadtest.workload import Item

PAUSE_AFTER_ERROR_S: Final = 0.1
"""A user of a closed loop waits so long after a failed request: who refuses at once is not asked in a tight loop."""
NOT_SENT: Final = "NotSentError"
"""Kind of error of a request that found no free user within its own time limit."""


class LoadUser(User):  # type: ignore[misc] # locust publishes no types
    """Sends one request after the other until its phase gives no further item."""

    abstract = True
    wait_time = constant(0)
    phase: ClassVar[Phase]
    watch: ClassVar[ServerWatch]
    connections: ClassVar[Connections]

    def on_start(self) -> None:
        """Connect, then wait for the other users, so that no request pays for a connection."""
        self.connection, is_new = self.connections.take()
        if is_new:
            self.watch.check(self.connection)
        self.phase.connected()

    def on_stop(self) -> None:
        """Leave nothing unrecorded."""
        self.phase.spare_time.finish()

    @task  # type: ignore[untyped-decorator] # as above
    def serve_items(self) -> None:
        """Send the requests of one item of the phase's after the other.

        All in one of Locust's tasks: between two of them Locust lets everybody else run first.
        """
        while self._state != LOCUST_STATE_STOPPING and self.watch.lost is None:
            item = self.phase.take()
            if item is None:
                break
            try:
                self._send_all(item)
            finally:
                self.phase.done()
        raise StopUser

    def _send_all(self, item: Item) -> None:
        """Send an item's request, or a conversation's requests, each with the answers before it."""
        history: list[Message] = []
        due_ns = item.due_ns
        for turn in range(item.turns):
            if turn:
                gevent.sleep(self.phase.workload.think_time_s(item, turn))
                if self.watch.lost is not None or not self.phase.may_start():
                    return
                due_ns = None
            prompt = item.prompt(turn)
            if history:
                messages = (*history, *prompt.as_messages())
                prompt = Prompt(messages=messages, max_tokens=prompt.max_tokens)
            answer = self._send(item, turn, prompt, due_ns)
            if answer is None or answer.cancelled:
                return
            if item.turns > 1:
                history = [*prompt.as_messages(), {"role": "assistant", "content": answer.text}]

    def _send(self, item: Item, turn: int, prompt: Prompt, due_ns: int | None) -> Answer | None:
        """Send one request, record it and tell Locust; gives its answer, None where it failed."""
        answer, error, spec = Answer(), None, item.task
        departure = None
        if spec.cancellation is not None and self.phase.workload.cancels(item, turn):
            departure = Departure(spec.cancellation)
        self.phase.started += 1
        start_ns = time.perf_counter_ns()
        kind = message = None
        limit_s = self.phase.workload.scenario.timeout_s
        if due_ns is not None and start_ns - due_ns > limit_s * 1e9:
            kind = NOT_SENT
            message = (
                f"{self.phase.stage.users} requests were under way for {limit_s:g} s, so this one was never sent; "
                "raise max_in_flight or offer less"
            )
        else:
            try:
                ASK[spec.task](self.connection, spec, prompt, answer, departure)
            except FathomError as caught:
                error, kind, message = caught, error_kind(caught), str(caught)
        end_ns = time.perf_counter_ns()
        record = RequestRecord(
            stage=self.phase.stage.number,
            index=item.index,
            start_ns=start_ns if answer.sent_ns is None else answer.sent_ns,
            end_ns=end_ns,
            response_ns=tuple(answer.response_ns),
            response_tokens=tuple(answer.response_tokens),
            num_input_tokens=answer.num_input_tokens,
            num_output_tokens=answer.num_output_tokens,
            finish_reason=answer.finish_reason,
            error_kind=kind,
            error_message=message,
            intended_ns=due_ns,
            task=spec.label,
            model=spec.model,
            conversation=item.index if spec.conversation is not None else None,
            turn=turn,
            cancelled=answer.cancelled,
            worker=self.phase.share.place,
        )
        self.phase.spare_time.do(partial(self._record, record, end_ns - start_ns, error))
        if kind is None:
            return answer
        if error is not None:
            self.watch.check_after(error, self.connection)
        gevent.sleep(PAUSE_AFTER_ERROR_S if due_ns is None else 0)
        return None

    def _record(self, record: RequestRecord, took_ns: int, error: FathomError | None) -> None:
        """Record a request that ended, and tell Locust."""
        self.phase.recorder.add(record)
        self.environment.events.request.fire(
            request_type=record.task,
            name=record.model,
            response_time=took_ns / 1e6,
            response_length=sum(record.response_tokens),
            exception=error if record.succeeded or error is not None else TimeoutError(record.error_message),
            context=self.context(),
        )
