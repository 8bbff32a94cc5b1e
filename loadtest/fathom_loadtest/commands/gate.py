"""``fathom-load gate``: hold a report against objectives."""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from fathom_loadtest.errors import ScenarioError

HELP: Final = "hold a report against objectives, for continuous integration"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.epilog = "Exit status: 0 every objective kept; 2 wrong arguments; 3 an objective broken."
    parser.add_argument("report", type=Path, help="a report's folder or report.json")
    parser.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="OBJECTIVE,…",
        help="FIGURE.STATISTIC<=LIMIT or >=LIMIT, such as ttft_ms.p95<=200 or output_token_throughput>=500; "
        "without any, the SLOs that the run itself was given",
    )
    parser.add_argument("--slo-file", type=Path, help="TOML file of objectives, of all stages or of single ones")
    parser.add_argument("--stage", action="append", default=[], help="judge this stage alone, such as '8 users'")
    parser.add_argument(
        "--attainment",
        type=float,
        help="share of requests that must meet the run's own SLOs (default: what its sweep went by, else 0.95)",
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")


def main(options: argparse.Namespace, command: str) -> int:
    """Judge a report; gives the exit status."""
    from fathom_loadtest.gate.file import Objectives
    from fathom_loadtest.gate.saved import judge_saved
    from fathom_loadtest.report.saved import SavedReport

    if options.attainment is not None and not 0 < options.attainment <= 1:
        raise ScenarioError(f"--attainment {options.attainment} is out of range; it is a share above 0, up to 1")
    objectives = Objectives.gather(options.slo, options.slo_file)
    verdict = judge_saved(SavedReport.read(options.report), objectives, options.stage, options.attainment)
    if options.json:
        sys.stdout.write(json.dumps(verdict.to_json(), indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in verdict.lines())
    return verdict.status
