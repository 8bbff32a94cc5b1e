"""``fathom-load compare``: two runs side by side, with confidence intervals and a verdict."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fathom_loadtest.errors import OutputError

if TYPE_CHECKING:
    from fathom_loadtest.compare.comparison import Comparison

HELP: Final = "compare two runs: differences with confidence intervals, and a verdict for each figure"

EXIT_WORSE: Final = 4
_FORMS: Final = ("html", "json", "md")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.epilog = "Exit status: 0 nothing became worse; 2 wrong arguments, or runs that are not comparable; 4 worse."
    parser.add_argument("a", type=Path, metavar="A", help="the run to compare with: a report's folder or report.json")
    parser.add_argument("b", type=Path, metavar="B", help="the run that is judged")
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        type=_output,
        metavar="FORM|FILE",
        help=f"one of {', '.join(_FORMS)} on standard output in place of the tables, or a file that ends so",
    )
    parser.add_argument(
        "--confidence", type=float, default=0.99, help="of the intervals, 0.5 to 1 (default %(default)s)"
    )
    parser.add_argument(
        "--min-effect",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="smallest relative change that counts (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws behind the intervals (default %(default)s)")
    parser.add_argument(
        "--any-workload", action="store_true", help="compare runs whose requests differ, naming the differences"
    )


def main(options: argparse.Namespace, command: str) -> int:
    """Compare two runs; gives the exit status."""
    from fathom_loadtest.compare.comparison import Tolerance, compare
    from fathom_loadtest.report.saved import SavedReport

    tolerance = Tolerance(options.confidence, options.min_effect)
    runs = SavedReport.read(options.a), SavedReport.read(options.b)
    found = compare(*runs, tolerance, seed=options.seed, any_workload=options.any_workload)
    printed = [output for output in options.output if isinstance(output, str)]
    for output in options.output:
        if isinstance(output, Path):
            _write(output, _form(found, output.suffix.removeprefix(".")))
    for form in printed:
        sys.stdout.write(_form(found, form))
    if not printed:
        _print_tables(found)
    return EXIT_WORSE if found.verdict == "worse" else 0


def _output(text: str) -> str | Path:
    if text in _FORMS:
        return text
    if Path(text).suffix.removeprefix(".") not in _FORMS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither {', '.join(_FORMS)} nor a file that ends so")
    return Path(text)


def _form(found: "Comparison", form: str) -> str:
    import json

    from fathom_loadtest.compare.html import to_html
    from fathom_loadtest.compare.markdown import to_markdown

    match form:
        case "html":
            return to_html(found)
        case "md":
            return to_markdown(found)
        case _:
            return json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n"


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"--output {path}: cannot be written ({error.strerror}); name another file") from error


def _print_tables(found: "Comparison") -> None:
    from rich.console import Console

    from fathom_loadtest.compare.table import comparison_tables
    from fathom_loadtest.compare.text import headline, method_text, remarks

    console = Console(highlight=False)
    for table in comparison_tables(found):
        console.print(table)
    for remark in remarks(found):
        console.print(remark, markup=False, soft_wrap=True)
    console.print(method_text(found), markup=False, soft_wrap=True, style="dim")
    console.print(headline(found), markup=False, soft_wrap=True)
