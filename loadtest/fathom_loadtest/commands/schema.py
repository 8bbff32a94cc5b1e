"""``fathom-load schema``: what a scenario may say, for editors and for readers."""

import argparse
import sys
from typing import Final

HELP: Final = "print the JSON schema of scenario files, or their manual"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "--format", choices=("json", "markdown"), default="json", help="JSON schema, or the manual (docs/scenario.md)"
    )


def main(options: argparse.Namespace, command: str) -> int:
    """Print it; gives the exit status."""
    from fathom_loadtest.scenario.manual import scenario_manual
    from fathom_loadtest.scenario.schema import scenario_schema_text

    sys.stdout.write(scenario_schema_text() if options.format == "json" else scenario_manual())
    return 0
