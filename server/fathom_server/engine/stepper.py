"""One step: what the scheduler chose is computed, sampled, and turned into pieces of answers."""

import time
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom_server.engine.grammar import MaskPool
from fathom_server.engine.metrics import EngineMetrics
from fathom_server.engine.request import Piece
from fathom_server.engine.runner.base import ReducingRunner, Runner, StepRow
from fathom_server.engine.sampler import Choice, prompt_logprobs, sample
from fathom_server.engine.scheduler import ScheduledRow, Scheduler
from fathom_server.engine.sequence import Sequence
from fathom_server.engine.speculator import Speculator


@dataclass(slots=True)
class Progress:
    """What a step brought one sequence; ``broken`` where its model gave logits that are not finite."""

    sequence: Sequence
    token_ids: list[int] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    broken: bool = False

    def piece(self, *, is_first: bool, is_last: bool) -> Piece:
        """What of it the caller is told; ``is_first`` of its answer, ``is_last`` of its request."""
        sequence = self.sequence
        return Piece(
            sequence=sequence.index,
            text=self.text,
            token_ids=tuple(self.token_ids),
            finish_reason=self.finish_reason,
            choices=tuple(self.choices) if sequence.sampling.wants_logprobs else (),
            prompt_choices=tuple(sequence.prompt_choices) if is_first else (),
            cached_tokens=sequence.cached if is_first else 0,
            is_last=is_last,
        )


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """Sequences with the number of their tokens to compute, drafts not counted, and whether they are then sampled."""

    rows: list[ScheduledRow]

    @property
    def kind(self) -> str:
        """What it computes: "prefill", "decode" or "mixed"."""
        kinds = {row.sequence.is_decoding for row in self.rows}
        return "mixed" if len(kinds) == 2 else "decode" if kinds == {True} else "prefill"


class Stepper:
    """Plans and computes steps over one runner; owned by the engine's thread."""

    def __init__(
        self, runner: Runner, scheduler: Scheduler, speculator: Speculator | None, metrics: EngineMetrics
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._speculator = speculator
        self._metrics = metrics
        self._masks = MaskPool()
        self._reducing = runner if isinstance(runner, ReducingRunner) else None

    def plan(self) -> PlannedStep:
        """Choose who is in the next step."""
        decoding = self._scheduler.decoding()
        self._add_drafts(decoding)
        prefilling = self._scheduler.prefilling()
        # an urgent request may just have taken the place of one that decodes
        rows = [ScheduledRow(one, 1, samples=True) for one in decoding if one in self._scheduler.running]
        return PlannedStep([*rows, *prefilling])

    def compute(self, step: PlannedStep) -> list[Progress]:
        """Compute a step and sample; returns what it brought to those whose next token was due."""
        rows = [self._step_row(row) for row in step.rows]
        sampled = [row.sequence for row in step.rows if row.samples]
        matchers = [(one, one.matcher) for one in sampled if one.matcher is not None]
        job = self._masks.start([matcher for _, matcher in matchers], [one.drafts for one, _ in matchers])
        begin = time.monotonic()
        logits = self._logits(step, rows)
        seconds = time.monotonic() - begin
        self._metrics.steps[step.kind].observe(seconds)
        if self._speculator is not None:
            self._speculator.observe_step(sum(len(row.token_ids) for row in rows), seconds)
        masks = dict(zip((one.id for one, _ in matchers), job.wait(), strict=True))
        at, ends = [], 0
        for scheduled, row in zip(step.rows, rows, strict=True):
            begins, ends = ends, ends + row.logits
            self._collect_prompt_choices(scheduled, logits[begins:ends])
            if scheduled.samples:
                at.append(ends - 1 - len(scheduled.sequence.drafts))
        progress = self._sample(logits, at, sampled, masks)
        self._advance(step, progress)
        return progress

    def forget(self, sequence: Sequence) -> None:
        """Let go of what is known of a sequence that has ended."""
        if self._speculator is not None:
            self._speculator.forget(sequence)

    def close(self) -> None:
        """End the threads that compute masks, and let go of what the speculator holds."""
        self._masks.close()
        if self._speculator is not None:
            self._speculator.close()

    def _add_drafts(self, decoding: Rows[Sequence]) -> None:
        """Tokens that a grammar forces are tried first: each is certain. Others are guessed."""
        free = []
        for sequence in decoding:
            sequence.drafts = []
            room = sequence.request.max_tokens - sequence.generated - 1
            if room < 1:
                continue
            forced = sequence.matcher.forced()[:room] if sequence.matcher is not None else []
            if forced:
                self._scheduler.add_drafts(sequence, forced)
            else:
                free.append((sequence, room))
        if self._speculator is None or not free:
            return
        proposals = self._speculator.propose([sequence for sequence, _ in free], [room for _, room in free])
        for (sequence, _), drafts in zip(free, proposals, strict=True):
            if drafts:
                self._scheduler.add_drafts(sequence, drafts)

    def _step_row(self, row: ScheduledRow) -> StepRow:
        sequence = row.sequence
        begin = sequence.computed
        token_ids = sequence.token_ids[begin : begin + row.tokens]
        logits = 1 + len(sequence.drafts) if row.samples else 0
        if sequence.wants_prompt_choices:
            logits = row.tokens
        return StepRow(sequence.blocks, begin, token_ids + sequence.drafts, logits, sequence.lane)

    def _collect_prompt_choices(self, row: ScheduledRow, logits: npt.NDArray[np.float32]) -> None:
        """Log-probabilities of the prompt's tokens but the first, from the logits of the token before each."""
        sequence = row.sequence
        if not sequence.wants_prompt_choices:
            return
        first = len(sequence.prompt_choices)
        skipped = first - sequence.computed  # computed a second time, after a preemption
        next_ids = sequence.request.prompt_ids[first + 1 : sequence.computed + row.tokens + 1]
        if skipped < row.tokens and next_ids:
            wanted = logits[skipped : skipped + len(next_ids)]
            top = sequence.sampling.prompt_logprobs or 0
            sequence.prompt_choices.extend(prompt_logprobs(wanted, next_ids, top))

    def _sample(
        self,
        logits: npt.NDArray[np.float32],
        at: list[int],
        sequences: list[Sequence],
        masks: dict[tuple[int, int], npt.NDArray[np.int32]],
    ) -> list[Progress]:
        """Draw each sequence's next token, and go on behind it for as long as its drafts turn out to be drawn."""
        progress = [Progress(sequence) for sequence in sequences]
        active = list(range(len(sequences)))
        position = 0
        while active:
            places = [at[index] + position for index in active]
            chosen = sample(
                logits if places == list(range(len(logits))) else logits[places],
                [sequences[index].sampler for index in active],
                [self._mask(masks, sequences[index], position) for index in active],
            )
            active = [
                index
                for index, choice in zip(active, chosen, strict=True)
                if self._take(progress[index], choice, position)
            ]
            position += 1
        return progress

    def _logits(self, step: PlannedStep, rows: list[StepRow]) -> npt.NDArray[np.float32]:
        """Logits of a step: from a device the few that choose, where none of its sequences needs more."""
        runner = self._reducing
        if runner is None or not all(
            row.sequence.matcher is None
            and not row.sequence.wants_prompt_choices
            and row.sequence.sampler.needs_only(runner.reduced_tokens)
            for row in step.rows
        ):
            return self._runner.step(rows)
        return runner.step_reduced(rows)

    @staticmethod
    def _mask(
        masks: dict[tuple[int, int], npt.NDArray[np.int32]], sequence: Sequence, position: int
    ) -> npt.NDArray[np.int32] | None:
        rows = masks.get(sequence.id)
        return None if rows is None else rows[position]

    @staticmethod
    def _take(progress: Progress, choice: Choice | None, position: int) -> bool:
        """Add a token to its answer; gives whether the next draft's logits are those of a token that came true."""
        if choice is None:
            progress.broken = True
            return False
        sequence, token = progress.sequence, choice.token
        sequence.token_ids.append(token)
        sequence.sampler.append(token)
        grammar_ends = False
        if sequence.matcher is not None:
            sequence.matcher.advance(token)
            grammar_ends = sequence.matcher.is_complete
        if choice.logprob is not None:
            sequence.cumulative_logprob += choice.logprob
        text, progress.finish_reason = sequence.text.push(token, grammar_ends=grammar_ends)
        progress.text += text
        progress.token_ids.append(token)
        progress.choices.append(choice)
        drafts = sequence.drafts
        return progress.finish_reason is None and position < len(drafts) and token == drafts[position]

    def _advance(self, step: PlannedStep, progress: list[Progress]) -> None:
        """Count what stands in the cache now: of the drafts, those that came true."""
        brought: dict[tuple[int, int], Any] = {one.sequence.id: one for one in progress}
        for row in step.rows:
            sequence = row.sequence
            one = brought.get(sequence.id)
            accepted = max(0, len(one.token_ids) - 1) if one is not None else 0
            if sequence.drafts:
                self._metrics.draft_tokens += len(sequence.drafts)
                self._metrics.accepted_tokens += accepted
                if self._speculator is not None:
                    self._speculator.observe(sequence, len(sequence.drafts), accepted)
                sequence.drafts = []
            self._scheduler.advance(sequence, row.tokens + accepted)
