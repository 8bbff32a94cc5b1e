"""A job from its file to its card: plan, ask, sift, write. Whatever ends it, the next run goes on where it was."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fathom_synth import __version__
from fathom_synth.asking import Asker
from fathom_synth.candidate import Answers, Candidate, candidates_of
from fathom_synth.card import CARD_JSON, CARD_MARKDOWN, CARD_VERSION, hash_file, render_card
from fathom_synth.errors import ServerError
from fathom_synth.filters.certainty import AgreementFilter, LogprobFilter
from fathom_synth.filters.decontamination import DecontaminationFilter
from fathom_synth.filters.duplicates import DuplicatesFilter, NearDuplicatesFilter
from fathom_synth.filters.heuristics import HeuristicsFilter
from fathom_synth.filters.judge import JudgeFilter, judge_template
from fathom_synth.filters.pipeline import Rejection, Stage, sift
from fathom_synth.filters.settings import (
    AgreementSettings,
    DecontaminationSettings,
    DuplicatesSettings,
    FilterSettings,
    HeuristicsSettings,
    JudgeSettings,
    LengthSettings,
    LogprobSettings,
    NearDuplicatesSettings,
)
from fathom_synth.filters.shape import LengthFilter, SchemaFilter
from fathom_synth.generation import Refusal, generate
from fathom_synth.job import Job
from fathom_synth.journal import Journal, Lock
from fathom_synth.output import ROWS_STEM, write_lines, write_rows, write_text
from fathom_synth.progress import Progress
from fathom_synth.prompts import Prompt, PromptSource, Unusable, digest
from fathom_synth.teacher import Teacher, read_teacher

ANSWERS_FILE: Final = "answers.jsonl"
SCORES_FILE: Final = "scores.jsonl"
QUARANTINE_FILE: Final = "quarantine.jsonl"
REJECTED_FILE: Final = "rejected.jsonl"
BATCH_CANDIDATES: Final = 512
TOOL: Final = f"fathom-synth {__version__}"


@dataclass(slots=True)
class Plan:
    """What a job will ask, before anything is sent."""

    job: Job
    teacher: Teacher
    source: PromptSource
    prompts: dict[str, int] = field(default_factory=dict)
    """Prompts by their name."""
    unusable: list[Unusable] = field(default_factory=list)

    @classmethod
    def of(cls, job: Job) -> "Plan":
        """Check everything that can be checked without a server. Raises SynthError."""
        teacher = read_teacher(job.teacher)
        plan = cls(job, teacher, PromptSource(job, teacher.identity))
        for settings in job.filters:
            if isinstance(settings, JudgeSettings):
                judge_template(settings)
            else:
                make_filter(settings)
        for prompt in plan.source:
            if isinstance(prompt, Unusable):
                plan.unusable.append(prompt)
            else:
                plan.prompts[prompt.name] = plan.prompts.get(prompt.name, 0) + 1
        return plan

    @property
    def seed_files(self) -> dict[str, str | None]:
        """The names of the prompts' files of seeds, by the prompts' names."""
        return {each.name: None if each.seeds is None else each.seeds.name for each in self.job.prompts}

    @property
    def total(self) -> int:
        """All prompts."""
        return sum(self.prompts.values())


def run_job(job: Job) -> dict[str, Any]:
    """Run a job, or go on with it; gives its card. Raises SynthError."""
    with Lock(job.output):
        plan = Plan.of(job)
        _write_quarantine(plan, [])
        with Journal(job.output / ANSWERS_FILE) as answers, Journal(job.output / SCORES_FILE) as scores:
            return asyncio.run(_run(plan, answers, scores))


async def _run(plan: Plan, answers: Journal, scores: Journal) -> dict[str, Any]:
    job = plan.job
    there = sum(1 for prompt in plan.source if isinstance(prompt, Prompt) and prompt.key in answers)
    progress = Progress(plan.total, there)
    refusals: list[Refusal] = []
    async with _askers(job, progress.tell) as (teacher, stages):
        if there < plan.total:
            await teacher.check_model(job.teacher.model)
            with progress.shown():
                refusals = await generate(
                    plan.source, job.teacher.model, teacher, job.server.in_flight, answers, progress.done
                )
            if len(refusals) == plan.total:
                raise ServerError(f"the server refuses every request: {refusals[0].reason}")
        _write_quarantine(plan, refusals)
        progress.tell(f"{len(answers):,} prompts answered; sifting")
        return await _sift_and_write(plan, answers, stages(scores), len(refusals))


@asynccontextmanager
async def _askers(
    job: Job, tell: Callable[[str], None]
) -> AsyncIterator[tuple[Asker, Callable[[Journal], list[Stage]]]]:
    """The teacher's server, and what makes the filters, judges with their servers among them."""
    async with AsyncExitStack() as stack:

        def asker(url: str | list[str] | None) -> Asker:
            settings = job.server if url is None else job.server.model_copy(update={"url": url})
            made = Asker(settings, tell)
            stack.push_async_callback(made.close)
            return made

        teacher = asker(None)

        def stages(scores: Journal) -> list[Stage]:
            made = []
            for settings in job.filters:
                if isinstance(settings, JudgeSettings):
                    judge = JudgeFilter(settings, teacher if settings.url is None else asker(settings.url), scores)
                    made.append(Stage(settings, judge))
                else:
                    made.append(Stage(settings, make_filter(settings)))
            return made

        yield teacher, stages


def make_filter(
    settings: FilterSettings,
) -> (
    SchemaFilter | LengthFilter | HeuristicsFilter | DuplicatesFilter | NearDuplicatesFilter
    | DecontaminationFilter | LogprobFilter | AgreementFilter
):  # fmt: skip
    """Make a filter that asks no server. Raises SynthError where its files cannot be read."""
    match settings:
        case LengthSettings():
            return LengthFilter(settings)
        case HeuristicsSettings():
            return HeuristicsFilter(settings)
        case DuplicatesSettings():
            return DuplicatesFilter(settings)
        case NearDuplicatesSettings():
            return NearDuplicatesFilter(settings)
        case DecontaminationSettings():
            return DecontaminationFilter(settings)
        case LogprobSettings():
            return LogprobFilter(settings)
        case AgreementSettings():
            return AgreementFilter(settings)
    return SchemaFilter()


async def _sift_and_write(plan: Plan, answers: Journal, stages: Sequence[Stage], refused: int) -> dict[str, Any]:
    """Lead all answers through the filters in the prompts' order; write what passes, what does not, and the card."""
    job = plan.job
    counts = {name: {"answers": 0, "rows": 0} for name in plan.prompts}
    answer_tokens = 0
    with write_rows(job.output, job.format) as rows, write_lines(job.output / REJECTED_FILE) as rejections:
        for batch in _batches(plan.source, answers):
            kept, rejected = await sift(stages, batch)
            for candidate in batch:
                counts[candidate.prompt.name]["answers"] += 1
            for candidate in kept:
                rows.write(_row(candidate, plan))
                counts[candidate.prompt.name]["rows"] += 1
                answer_tokens += candidate.sample.tokens
            for rejection in rejected:
                rejections.write(_rejection(rejection))
    card = _card(plan, stages, counts, answer_tokens, refused)
    write_text(job.output / CARD_JSON, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    write_text(job.output / CARD_MARKDOWN, render_card(card))
    return card


def _batches(source: PromptSource, answers: Journal) -> Iterator[list[Candidate]]:
    """The answers to the prompts, in the prompts' order, some hundred at a time; all of a prompt's in one batch."""
    batch: list[Candidate] = []
    for prompt in source:
        record = answers.get(prompt.key) if isinstance(prompt, Prompt) else None
        if isinstance(prompt, Prompt) and record is not None:
            batch += candidates_of(prompt, Answers.from_json(record))
        if len(batch) >= BATCH_CANDIDATES:
            yield batch
            batch = []
    if batch:
        yield batch


def _row(candidate: Candidate, plan: Plan) -> dict[str, Any]:
    """A row of training data: the conversation in chat form, and where it comes from."""
    prompt, teacher = candidate.prompt, plan.teacher
    seeds = plan.seed_files[prompt.name]
    return {
        "id": candidate.id,
        "messages": candidate.messages,
        "provenance": {
            "teacher": {
                "model": teacher.model,
                "source": teacher.source,
                "revision": teacher.revision,
                "licence": teacher.decision.licence,
                "training": teacher.decision.training,
                "override": teacher.decision.override,
            },
            "prompt": {
                "name": prompt.name,
                "seeds": seeds,
                "line": prompt.line if seeds is not None else None,
                "templates_sha256": plan.source.templates_sha256[prompt.name],
                "json_schema_sha256": None if prompt.json_schema is None else digest(prompt.json_schema),
            },
            "sampling": {**prompt.sampling.options(), "seed": prompt.seed, "sample": candidate.index},
            "finish_reason": candidate.sample.finish_reason,
            "tokens": candidate.sample.tokens,
            "scores": {name: round(score, 6) for name, score in candidate.scores.items()},
            "tool": TOOL,
        },
    }


def _rejection(rejection: Rejection) -> dict[str, Any]:
    candidate = rejection.candidate
    return {
        "id": candidate.id,
        "filter": rejection.filter,
        "reason": rejection.reason,
        "messages": candidate.messages,
        "scores": {name: round(score, 6) for name, score in candidate.scores.items()},
    }


def _write_quarantine(plan: Plan, refusals: Sequence[Refusal]) -> None:
    """Write what was asked of nobody, or answered by nobody: file, line, reason and text."""
    with write_lines(plan.job.output / QUARANTINE_FILE) as lines:
        for row in plan.unusable:
            lines.write(
                {"prompt": row.prompt, "file": row.file.name, "line": row.line, "reason": row.reason, "raw": row.raw}
            )
        for refusal in refusals:
            prompt = refusal.prompt
            lines.write(
                {
                    "prompt": prompt.name,
                    "file": plan.seed_files[prompt.name],
                    "line": prompt.line,
                    "reason": f"the server refuses it: {refusal.reason}",
                    "raw": json.dumps(prompt.messages, ensure_ascii=False),
                }
            )


def _card(
    plan: Plan, stages: Sequence[Stage], counts: Mapping[str, Mapping[str, int]], answer_tokens: int, refused: int
) -> dict[str, Any]:
    job, teacher = plan.job, plan.teacher
    file = f"{ROWS_STEM}.{job.format}"
    prompts = [
        {
            "name": settings.name,
            "seeds": plan.seed_files[settings.name],
            "sampling": job.sampling_of(settings).options(),
            "prompts": plan.prompts[settings.name],
            **counts[settings.name],
        }
        for settings in job.prompts
    ]
    return {
        "version": CARD_VERSION,
        "tool": TOOL,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "file": file,
        "sha256": hash_file(job.output / file),
        "rows": sum(count["rows"] for count in counts.values()),
        "answers": sum(count["answers"] for count in counts.values()),
        "answer_tokens": answer_tokens,
        "malformed": len(plan.unusable),
        "refused": refused,
        "teacher": {"model": teacher.model, "source": teacher.source, "revision": teacher.revision},
        "licence": teacher.decision.to_json(),
        "seed": job.seed,
        "prompts": prompts,
        "filters": [stage.to_json() for stage in stages],
    }
