"""``fathom-fit``: will it fit, on what, how fast, at what cost; and ``calibrate`` and ``autoscale``."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from fathom_export.errors import ExportError, FitError

OUTPUTS: Final = ("table", "json", "html", "helm-values", "spec")
EXIT_USER_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130
_GIB: Final = 1 << 30


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 2 for what the caller can mend."""
    given = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {"calibrate": _calibrate, "autoscale": _autoscale}
    try:
        if given and given[0] in commands:
            return commands[given[0]](given[1:])
        return _fit(given)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _fit(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    from fathom_export.fit.ask import answer_question, question

    asked = question(arguments)
    answer = answer_question(asked)
    _write(_shown(answer, arguments.output, asked.name), arguments.to)
    if answer.shortfall is not None and arguments.output in ("table", "json", "html"):
        print(f"error: nothing meets this: {answer.shortfall}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def _shown(answer: Any, output: str, name: str) -> str:
    if output == "json":
        return json.dumps(answer.to_json(), indent=1) + "\n"
    if output == "html":
        from fathom_export.fit.page import as_page

        return as_page(answer)
    if output == "table":
        from fathom_export.fit.table import as_table

        return as_table(answer) + "\n"
    from fathom_export.fit.values import as_yaml, bundle_text, helm_values

    values = helm_values(answer, name)
    return as_yaml(values) if output == "helm-values" else bundle_text(answer, answer.chosen, name)


def _calibrate(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fathom-fit calibrate",
        description="Measure this machine with the kernels that serve: a minute or two. Nothing else should run.",
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="where the result goes (default: the user's cache)")
    arguments = parser.parse_args(argv)
    from fathom_export.fit.calibrate import calibrate
    from fathom_export.fit.calibration import default_file
    from fathom_export.fit.probes import Effort

    path = arguments.to or default_file()
    found = calibrate(Effort(), lambda text: print(f"measuring: {text}", file=sys.stderr, flush=True))
    found.save(path)
    processor = found.processor
    print(f"{found.machine}, {found.threads} threads: reads {processor.bandwidth_bytes_per_s / 1e9:.1f} GB/s")
    for precision, rates in processor.products.items():
        curve = rates.curves[-1]
        print(
            f"{precision}: products of one row {1e-9 / curve(1):.1f} G weights/s, of {curve.at[-1]:.0f} rows "
            f"{2e-9 * curve.at[-1] / curve(curve.at[-1]):.0f} G operations/s"
        )
    print(f"written to {path}")
    return 0


def _autoscale(argv: list[str]) -> int:
    from fathom_export.fit.workload import Objectives

    parser = argparse.ArgumentParser(
        prog="fathom-fit autoscale",
        description="The chart's autoscaling values from a load test's sweep of one replica: SLOs in, HPA or KEDA out.",
        epilog="Example: fathom-fit autoscale reports/sweep/report.json --slo ttft_ms=500,itl_ms=50 --peak-rate 40",
    )
    parser.add_argument("report", type=Path, help="report.json of fathom-load run with a sweep, or several stages")
    parser.add_argument("--slo", required=True, metavar="NAME=MS,...", help="what must hold")
    parser.add_argument("--percentile", choices=("avg", "p50", "p90", "p95", "p99"), default="p95", help="of what")
    parser.add_argument("--kind", choices=("hpa", "keda"), default="hpa", help="who scales (default: %(default)s)")
    parser.add_argument("--prometheus-url", default="", metavar="URL", help="for keda")
    parser.add_argument("--peak-rate", type=float, metavar="R", help="requests a second that must be served at most")
    parser.add_argument("--low-rate", type=float, metavar="R", help="requests a second that there always are")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write there instead of stdout")
    arguments = parser.parse_args(argv)
    from fathom_export.fit.values import as_yaml, read_sweep, scaling_values

    for flag, rate in (("--peak-rate", arguments.peak_rate), ("--low-rate", arguments.low_rate)):
        if rate is not None and not 0 < rate < float("inf"):
            raise FitError(f"{flag} is {rate:g}; give requests a second above 0")
    objectives = Objectives.parse(arguments.slo)
    levels = read_sweep(arguments.report, arguments.percentile, objectives)
    values = scaling_values(
        levels, objectives, arguments.kind, arguments.peak_rate, arguments.low_rate, arguments.prometheus_url
    )
    _write(as_yaml(values), arguments.to)
    return 0


def _write(text: str, to: Path | None) -> None:
    if to is None:
        sys.stdout.write(text)
        return
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FitError(f"--to {to} cannot be written ({error.strerror}); give another place") from error


def _parser() -> argparse.ArgumentParser:
    from fathom_server.sizing.shape import Precision

    parser = argparse.ArgumentParser(
        prog="fathom-fit",
        description="Will a decoder fit, on what, how fast, and at what cost? Only config.json and headers are read.",
        epilog="Examples: fathom-fit org/model --rate 5 --slo ttft_ms=500,itl_ms=50 | fathom-fit bundle.toml --model "
        "chat --requests 16 | fathom-fit calibrate | fathom-fit autoscale report.json --slo itl_ms=50",
    )
    parser.add_argument("source", help="a bundle (*.toml), a checkpoint's folder, a hub id, or pypi:NAME")
    parser.add_argument("--model", metavar="NAME", help="which model of a bundle (default: its only LLM)")
    work = parser.add_argument_group("what is asked of it")
    work.add_argument("--input-tokens", type=int, default=512, metavar="N", help="of a prompt (default: %(default)s)")
    work.add_argument("--output-tokens", type=int, default=128, metavar="N", help="of an answer (default: %(default)s)")
    work.add_argument("--requests", type=int, metavar="N", help="at once")
    work.add_argument("--rate", type=float, metavar="R", help="requests a second, on average")
    work.add_argument("--slo", metavar="NAME=MS,...", help="means that must hold: ttft_ms, itl_ms, request_latency_ms")
    where = parser.add_argument_group("where it may run")
    where.add_argument("--precision", nargs="+", choices=get_args(Precision), default=[], help="(default: all that go)")
    where.add_argument("--gpu", nargs="+", default=[], metavar="NAME", help="only these GPUs (default: all known ones)")
    where.add_argument("--gpus", type=Path, metavar="FILE", help="GPUs of your own, in the form of gpus.toml")
    where.add_argument("--no-gpu", action="store_true", help="CPUs only")
    where.add_argument("--no-cpu", action="store_true", help="GPUs only")
    where.add_argument(
        "--memory-gib", type=float, metavar="N", help="of the CPU's machine (default: what this process may use)"
    )
    where.add_argument("--calibration", type=Path, metavar="FILE", help="of fathom-fit calibrate, for a CPU's speed")
    where.add_argument(
        "--price", nargs="+", default=[], metavar="NAME=P", help="of a GPU (or cpu) for an hour, in any currency"
    )
    where.add_argument(
        "--bandwidth-share", type=float, default=0.7, help="of a GPU's sheet that is reached (%(default)s)"
    )
    where.add_argument(
        "--compute-share", type=float, default=0.5, help="of a GPU's sheet that is reached (%(default)s)"
    )
    parser.add_argument("--output", choices=OUTPUTS, default="table", help="form of the answer (default: %(default)s)")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write there instead of stdout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
