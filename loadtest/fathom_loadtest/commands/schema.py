"""``fathom-load schema``: what a scenario may say, for editors and for readers."""

import argparse
import sys
from typing import Final

from fathom_loadtest.errors import ScenarioError

HELP: Final = "print the JSON schema of scenario files or of reports, or the scenarios' manual"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "--format", choices=("json", "markdown"), default="json", help="JSON schema, or the manual (docs/scenario.md)"
    )
    parser.add_argument("--of", choices=("scenario", "report"), default="scenario", help="report: of report.json")


def main(options: argparse.Namespace, command: str) -> int:
    """Print it; gives the exit status."""
    if options.of == "report":
        if options.format != "json":
            raise ScenarioError("--of report has no manual; its fields are in the README of fathom-loadtest")
        from fathom_loadtest.report.schema import report_schema_text

        sys.stdout.write(report_schema_text())
        return 0
    from fathom_loadtest.scenario.manual import scenario_manual
    from fathom_loadtest.scenario.schema import scenario_schema_text

    sys.stdout.write(scenario_schema_text() if options.format == "json" else scenario_manual())
    return 0
