"""``python -m deploy.compose``: check the compose file, or compute how long its stop takes."""

import argparse
import sys
from pathlib import Path
from typing import Final

from deploy.compose.errors import ComposeError

ROOT: Final = Path(__file__).parents[2]


def build_parser() -> argparse.ArgumentParser:
    """All commands."""
    parser = argparse.ArgumentParser(prog="python -m deploy.compose", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what is wrong with docker-compose.yml; exit 1 if anything is")
    check.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: this one)")
    stop = commands.add_parser("stop", help="the seconds of a stop, as lines for .env, or as values of the chart")
    stop.add_argument("--bundle", type=Path, default=ROOT / "bundle.toml", help="default: the demo's")
    stop.add_argument("--max-tokens", type=int, help="the longest answer that must end whole (default: the bundle's)")
    latency = stop.add_mutually_exclusive_group()
    latency.add_argument(
        "--itl-ms", type=float, default=50.0, help="between two tokens: p99 of itl_ms under your load (default: 50)"
    )
    latency.add_argument("--report", type=Path, help="take it from the report.json of a run of fathom-load")
    stop.add_argument("--format", choices=["env", "helm"], default="env", help="helm: values for the chart")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Check docker-compose.yml without an engine, or compute its stop. Exit status 2 for a file that cannot be read."""
    options = build_parser().parse_args(argv)
    try:
        if options.command == "stop":
            return _stop(options)
        from deploy.compose.checks import findings

        found = findings(options.root)
    except ComposeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for finding in found:
        print(finding)
    return int(bool(found))


def _stop(options: argparse.Namespace) -> int:
    from deploy.compose.stop import longest_answer, measured_itl_ms, stop_times

    longest = options.max_tokens if options.max_tokens is not None else longest_answer(options.bundle)
    itl_ms = options.itl_ms if options.report is None else measured_itl_ms(options.report)
    times = stop_times(longest, itl_ms)
    if options.format == "helm":  # the chart computes the same from these, and adds its preStopSeconds
        print(f"drain:\n  maxTokens: {longest}\n  interTokenLatencyMs: {itl_ms:g}")
        return 0
    print(f"FATHOM_DRAIN_S={times.drain_s}\nFATHOM_STOP_GRACE_S={times.grace_s}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
