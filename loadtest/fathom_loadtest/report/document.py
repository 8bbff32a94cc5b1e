"""A report's content, whatever its form: the JSON file holds all of it, page and terminal show it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fathom_loadtest.environment import RunEnvironment
from fathom_loadtest.generator import GeneratorLoad
from fathom_loadtest.metrics import DISTRIBUTIONS, PERCENTILE_METHOD, TOTALS, Figure, Series, StageFigures
from fathom_loadtest.outcome import Ending, Run
from fathom_loadtest.recorder import RequestRecord
from fathom_loadtest.scenario import Scenario
from fathom_loadtest.server_side.document import ServerSide

SCHEMA: Final = "fathom-loadtest/2"
READABLE_SCHEMAS: Final = ("fathom-loadtest/1", SCHEMA)
"""What ``compare`` and ``gate`` read; version 1 had closed loops alone, whose stages bear no name."""


def stage_label(name: str, users: int, rate: float | None) -> str:
    """Call a stage by its load, "8 users" or "20 requests/s", behind its name where it has one."""
    load = f"{rate:.4g} requests/s" if rate is not None else f"{users} user{'' if users == 1 else 's'}"
    return f"{name}, {load}" if name else load


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage: its figures, its records, and how the generator fared. Times are ``perf_counter_ns`` of the run.

    ``name``, ``users``, ``rate``, ``late``, ``attainment`` and ``server`` are those of ``StageRun``. ``tasks`` are the
    figures of each task of a mix; empty for one alone. ``error_examples`` holds a message of each kind of error.
    ``records`` are all of the stage's, or 5,000 picked at random where there are more.
    """

    stage: int
    name: str
    users: int
    rate: float | None
    late: int
    attainment: float | None
    opened_ns: int
    closed_ns: int
    unfinished: int
    figures: StageFigures
    generator: GeneratorLoad
    warnings: tuple[str, ...]
    records: tuple[RequestRecord, ...]
    series: Series
    tasks: dict[str, StageFigures]
    error_examples: dict[str, str]
    server: ServerSide | None

    @property
    def label(self) -> str:
        """What the stage is called in tables and plots."""
        return stage_label(self.name, self.users, self.rate)

    def to_json(self) -> dict[str, Any]:
        """Everything but the records, which have a file of their own."""
        fields = (
            "stage", "name", "users", "rate", "late", "attainment", "opened_ns", "closed_ns", "unfinished", "warnings",
        )  # fmt: skip
        figures = asdict(self.figures)
        del figures["warnings"]
        own = {name: getattr(self, name) for name in fields}
        return {
            **own,
            "error_examples": self.error_examples,
            "generator": asdict(self.generator),
            "figures": figures,
            "tasks": {name: asdict(each) for name, each in self.tasks.items()},
            "series": asdict(self.series),
            "server": None if self.server is None else asdict(self.server),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    ``started_at`` is ISO 8601 in UTC; ``target`` is what the server said of itself and the model; ``knee`` is, after a
    sweep, the number of the stage with the highest load that kept the SLOs.
    """

    scenario: Scenario
    started_at: str
    command: str
    ending: Ending
    ending_message: str
    target: dict[str, str]
    environment: RunEnvironment
    stages: tuple[StageReport, ...]
    knee: int | None = None

    @property
    def shown_distributions(self) -> tuple[Figure, ...]:
        """Figures with statistics that this task has."""
        return tuple(figure for figure in DISTRIBUTIONS if any(getattr(s.figures, figure.name) for s in self.stages))

    @property
    def shown_totals(self) -> tuple[Figure, ...]:
        """Figures with one value a stage that this task has."""
        return tuple(
            figure for figure in TOTALS if any(getattr(s.figures, figure.name) is not None for s in self.stages)
        )

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON holds it, documented in the distribution's README."""
        definitions = {figure.name: asdict(figure) for figure in (*TOTALS, *DISTRIBUTIONS)}
        for definition in definitions.values():
            del definition["name"]
        return {
            "schema": SCHEMA,
            "started_at": self.started_at,
            "command": self.command,
            "ending": self.ending,
            "ending_message": self.ending_message,
            "knee": self.knee,
            "scenario": self.scenario.to_json(),
            "target": self.target,
            "environment": asdict(self.environment),
            "percentile_method": PERCENTILE_METHOD,
            "definitions": definitions,
            "stages": [stage.to_json() for stage in self.stages],
        }

    def save_json(self, path: Path) -> None:
        """Write ``to_json``."""
        path.write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def build_report(
    run: Run, *, started_at: str, command: str, target: dict[str, str], environment: RunEnvironment
) -> Report:
    """Compute every figure of a run."""
    stages = []
    for stage in run.stages:
        tally, tallies = run.recorder.tally(stage.stage), run.recorder.tallies_by_task(stage.stage)
        figures = tally.figures()
        stages.append(
            StageReport(
                stage=stage.stage,
                name=stage.name,
                users=stage.users,
                rate=stage.rate,
                late=stage.late,
                attainment=stage.attainment,
                opened_ns=stage.opened_ns,
                closed_ns=stage.closed_ns,
                unfinished=stage.unfinished,
                figures=figures,
                generator=stage.generator,
                warnings=(
                    *figures.warnings,
                    *_length_warnings(run.scenario, figures),
                    *stage.generator.warnings(figures),
                ),
                records=tuple(run.recorder.sample(stage.stage)),
                series=tally.series(stage.opened_ns),
                tasks={name: each.figures() for name, each in tallies.items()} if len(tallies) > 1 else {},
                error_examples=tally.examples,
                server=stage.server,
            )
        )
    return Report(
        scenario=run.scenario,
        started_at=started_at,
        command=command,
        ending=run.ending,
        ending_message=run.ending_message,
        target=target,
        environment=environment,
        stages=tuple(stages),
        knee=run.knee,
    )


def _length_warnings(scenario: Scenario, figures: StageFigures) -> list[str]:
    """Say where answers or prompts are not as long as the scenario asked for."""
    found = []
    if figures.succeeded and not figures.total_input_tokens:
        found.append("the server reported no input tokens, so their figures say nothing")
    pairs = (
        ("input", scenario.input_tokens, figures.input_tokens, "the tokenizer cannot cut words that short"),
        ("output", scenario.output_tokens, figures.output_tokens, "the model stopped early; see --ignore-eos"),
    )
    for name, wanted, counted, reason in pairs:
        # the mean of n draws lies within three standard errors, unless something else is at work
        if wanted and counted:
            slack = 0.05 * wanted.mean + 3 * wanted.stddev / counted.count**0.5
            if abs(counted.avg - wanted.mean) > slack:
                found.append(
                    f"{wanted.mean:g} {name} tokens were asked for, {counted.avg:.3g} came on average: {reason}"
                )
    return found
