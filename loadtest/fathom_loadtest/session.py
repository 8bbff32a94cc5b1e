"""A load test from the first connection to the written report; runs in a cooperative process only."""

import logging
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import gevent
from rich.console import Console

from fathom_client import Client
from fathom_loadtest.content.files import ScenarioFiles
from fathom_loadtest.content.synthetic import WordCosts
from fathom_loadtest.crew import Crew, LocalCrew
from fathom_loadtest.environment import RunEnvironment
from fathom_loadtest.errors import OutputError
from fathom_loadtest.gate.file import Objectives
from fathom_loadtest.live import LiveTable
from fathom_loadtest.outcome import Run
from fathom_loadtest.report.document import Report, build_report
from fathom_loadtest.report.figures_csv import save_csv
from fathom_loadtest.report.html import save_html
from fathom_loadtest.report.markdown import save_markdown
from fathom_loadtest.report.numbers import percent
from fathom_loadtest.report.summary import gate_verdict
from fathom_loadtest.run import LoadTest
from fathom_loadtest.scenario import Target, TaskSpec
from fathom_loadtest.server_side.watch import ServerSideWatch
from fathom_loadtest.target import TokenCounter, check_target, connect
from fathom_loadtest.terminal import remarks, summary_table
from fathom_loadtest.web import WebTest
from fathom_loadtest.workers.plan import WorkerPlan
from fathom_loadtest.workload import Workload

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130


def run_session(
    files: ScenarioFiles,
    output: Path,
    command: str,
    fail_on_error_rate: float | None,
    web_address: tuple[str, int] | None = None,
    workers: WorkerPlan | None = None,
    gate: Objectives | None = None,
) -> int:
    """Test, report, and give the process's exit status; with an address, from Locust's web UI there.

    A ``gate`` decides the status of a run that was measured: by its objectives, or by the scenario's SLOs.

    Raises ServerError, OutputError.
    """
    logging.getLogger("locust").setLevel(logging.ERROR)  # its progress lines would interleave with ours
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    messages, results = Console(stderr=True, highlight=False), Console(highlight=False)
    scenario = files.scenario
    with connect(scenario.target) as client:
        target = check_target(client, scenario)
        _make_folder(output)
        workload = files.workload(partial(_word_costs, client))
    with (
        LiveTable(messages) as live,
        _watching(scenario.target, web_address) as server_side,
        _crew(workers, workload, live, messages) as crew,
    ):
        test = _make_test(workload, live, output / "requests.jsonl", web_address, server_side, crew)
        if isinstance(test, WebTest):
            messages.print(f"Locust's web UI: {test.url} (Ctrl-C ends it and writes the report)", soft_wrap=True)
        with _ending_on_signals(test):
            run = test.run()
    if isinstance(test, WebTest) and not run.stages:
        messages.print("no test was started, so there is no report")
        return EXIT_OK
    report = build_report(run, started_at=started_at, command=command, target=target, environment=RunEnvironment.here())
    _save(report, run, output)
    results.print(f"\n{scenario.model} at {scenario.url}, latencies in ms", markup=False, soft_wrap=True)
    results.print(summary_table(report))
    for remark in remarks(report):
        results.print(remark, markup=False, soft_wrap=True)
    results.print(f"report: {output / 'report.html'}", soft_wrap=True, markup=False)
    status, reason = _verdict(report, fail_on_error_rate)
    if reason is not None:
        messages.print(f"error: {reason}", markup=False, soft_wrap=True)
    if gate is None or status != EXIT_OK:
        return status
    verdict = gate_verdict(report, gate)
    for line in verdict.lines():
        results.print(line, markup=False, soft_wrap=True)
    return verdict.status


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "requests.jsonl").touch()
    except OSError as error:
        raise OutputError(f"--output {output}: cannot be written ({error.strerror}); name another folder") from error


def _word_costs(client: Client, task: TaskSpec) -> WordCosts:
    return WordCosts.measure(TokenCounter(client, task))


def _watching(target: Target, web_address: tuple[str, int] | None) -> AbstractContextManager[ServerSideWatch | None]:
    if target.metrics is None or web_address is not None:
        return nullcontext()
    return ServerSideWatch(target.metrics, target.url, target.metrics_interval_s)


@contextmanager
def _crew(plan: WorkerPlan | None, workload: Workload, live: LiveTable, messages: Console) -> Iterator[Crew]:
    if plan is None:
        yield LocalCrew(live.update)
        return
    from fathom_loadtest.workers.master import WorkerCrew

    with WorkerCrew(live.update, plan.host, plan.port, plan.secret) as crew:
        if plan.is_local:
            crew.start_workers(plan.number)
        else:
            if plan.is_open:
                messages.print(
                    f"warning: whoever reaches {plan.host}:{crew.port} can take part and read the prompts; give run "
                    "and workers the same --secret-file",
                    soft_wrap=True,
                )
            messages.print(f"waiting for {plan.number} workers at {plan.host}:{crew.port}", soft_wrap=True)
        crew.gather(plan.number, workload)
        yield crew


def _make_test(
    workload: Workload,
    live: LiveTable,
    records: Path,
    web_address: tuple[str, int] | None,
    server_side: ServerSideWatch | None,
    crew: Crew,
) -> LoadTest | WebTest:
    if web_address is None:
        return LoadTest(workload, crew, records, server_side)
    return WebTest(workload, web_address, live.update, records)


@contextmanager
def _ending_on_signals(test: LoadTest | WebTest) -> Iterator[None]:
    """End the run, not the process, on the first SIGINT or SIGTERM; a second one ends the process."""

    def end(number: int) -> None:
        test.interrupt()
        signal.signal(number, signal.SIG_DFL)

    watchers = [gevent.signal_handler(number, end, number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()


def _save(report: Report, run: Run, output: Path) -> None:
    try:
        run.recorder.save(output / "requests.jsonl")
        report.save_json(output / "report.json")
        save_html(report, output / "report.html")
        save_markdown(report, output / "report.md")
        save_csv(report, output / "figures.csv")
    except OSError as error:
        raise OutputError(f"--output {output}: cannot be written ({error.strerror}); name another folder") from error


def _verdict(report: Report, fail_on_error_rate: float | None) -> tuple[int, str | None]:
    """Give the exit status and, where it is not 0, the reason."""
    requests = sum(stage.figures.requests for stage in report.stages)
    failed = sum(stage.figures.failed for stage in report.stages)
    if report.ending == "interrupted":
        return EXIT_INTERRUPTED, report.ending_message
    if report.ending in ("server_lost", "worker_lost"):
        return EXIT_FAILED, report.ending_message
    if failed == requests:
        return EXIT_FAILED, f"all {requests} requests failed"
    if fail_on_error_rate is not None and failed / requests > fail_on_error_rate:
        allowed = f"--fail-on-error-rate allows {percent(fail_on_error_rate)}"
        return EXIT_FAILED, f"{percent(failed / requests)} of the requests failed; {allowed}"
    return EXIT_OK, None
