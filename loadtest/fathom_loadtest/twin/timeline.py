"""When the tokens of one answer are due."""

import math
import random
from typing import Literal

from fathom_loadtest.twin.plan import AnswerPlan

Outcome = Literal["goes on", "ended", "broken", "cut"]


class Timeline:
    """An answer from its admission to its end, in seconds of whatever clock its callers have.

    ``due_s`` is when the next response goes; ``sent`` how many tokens went. Tokens that fall due before somebody asks
    travel together, and the later ones keep their times: a late response delays none after it.
    """

    def __init__(self, plan: AnswerPlan, rng: random.Random, begin_s: float) -> None:
        self._plan = plan
        self._rng = rng
        self._group = 1
        self.due_s = begin_s + plan.ttft_s
        self.sent = 0
        self.stalled = False
        if plan.fault is not None:
            self._meet_fault()

    def take(self, now_s: float) -> tuple[int, Outcome]:
        """Give how many tokens travel at ``now_s``, and what is left of the answer then."""
        plan, before = self._plan, self.sent
        while self.due_s <= now_s:
            if plan.fault is not None and plan.fault.kind != "stall" and self.sent == plan.fault.after_tokens:
                return self.sent - before, "broken" if plan.fault.kind == "break" else "cut"
            self.stalled = False
            self.sent += self._group
            if self.sent >= plan.tokens:
                self.due_s = math.inf
                return self.sent - before, "ended"
            self._schedule()
        return self.sent - before, "goes on"

    def _schedule(self) -> None:
        """Fix what travels next and when: when the last token of it is due."""
        plan = self._plan
        most = plan.tokens
        if plan.fault is not None and self.sent < plan.fault.after_tokens:
            most = min(most, plan.fault.after_tokens)
        self._group = min(plan.tokens_per_response, most - self.sent)
        if plan.itl_ms.kind == "constant":
            self.due_s += plan.itl_ms.mean * self._group / 1e3
        else:
            self.due_s += sum(plan.itl_ms.draw(self._rng) for _ in range(self._group)) / 1e3
        if plan.fault is not None:
            self._meet_fault()

    def _meet_fault(self) -> None:
        fault = self._plan.fault
        if fault is not None and fault.kind == "stall" and self.sent == fault.after_tokens:
            self.stalled = True
            self.due_s += self._plan.stall_s
