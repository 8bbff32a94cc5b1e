"""The report as one page that needs nothing but itself."""

from datetime import datetime
from pathlib import Path

from fathom_loadtest.metrics import PERCENTILE_METHOD, STATISTICS
from fathom_loadtest.report.document import Report
from fathom_loadtest.report.numbers import percent, short
from fathom_loadtest.report.plots import plots


def save_html(report: Report, path: Path) -> None:
    """Write the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fathom_loadtest.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(short=short, percent=percent)
    page = environment.get_template("page.html").render(
        report=report,
        started=datetime.fromisoformat(report.started_at).strftime("%d %B %Y, %H:%M UTC").lstrip("0"),
        plots=plots(report),
        statistics=STATISTICS,
        percentile_method=PERCENTILE_METHOD,
        scenario_rows=_scenario_rows(report),
        environment_rows=_environment_rows(report),
    )
    path.write_text(page, encoding="utf-8")


def _scenario_rows(report: Report) -> dict[str, str]:
    scenario = report.scenario
    lengths = {"input tokens": scenario.input_tokens, "output tokens (max_tokens)": scenario.output_tokens}
    limit = f"{scenario.requests} requests" if scenario.requests is not None else f"{scenario.duration_s:g} s"
    rows = {
        "model": scenario.model,
        "server": scenario.url,
        "task": scenario.task,
        "users": ", ".join(map(str, scenario.users)) + " (closed loop, one stage each)",
        "stage": limit,
        "warm-up": f"{scenario.warmup_requests} a user before each stage, not counted",
        "timeout of a request": f"{scenario.timeout_s:g} s",
        "prompts": f"from {scenario.prompt_file}" if scenario.prompt_file else "synthetic",
    }
    for name, length in lengths.items():
        if length is not None:
            rows[name] = f"{length.mean}" + (f" ± {length.stddev:g}" if length.stddev else "")
    if scenario.temperature is not None:
        rows["temperature"] = f"{scenario.temperature:g}"
    if scenario.ignore_eos:
        rows["end of sequence"] = "ignored"
    if scenario.slos:
        rows["SLOs"] = ", ".join(f"{slo.name} ≤ {slo.limit_ms:g}" for slo in scenario.slos)
    rows["seed"] = str(scenario.seed)
    rows["command"] = report.command
    return rows


def _environment_rows(report: Report) -> dict[str, str]:
    environment = report.environment
    memory = "" if environment.memory_bytes is None else f", {environment.memory_bytes / 2**30:.1f} GiB"
    return {
        **report.target,
        "generator's machine": f"{environment.cpu or 'unknown CPU'}, {environment.cores} cores{memory}",
        "generator's system": environment.system,
        "commit": environment.git_commit or "not in git",
        **environment.versions,
    }
