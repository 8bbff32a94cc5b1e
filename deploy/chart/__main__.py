"""``python -m deploy.chart``: write what is generated of the chart, or say whether it is up to date."""

import argparse
import sys
from pathlib import Path
from typing import Final

import yaml

from deploy.chart.errors import ChartError
from deploy.chart.readme import readme_text
from deploy.chart.schema import schema_text
from deploy.chart.values_file import read_values
from deploy.observability.dashboards import dashboard_texts
from deploy.observability.rules import rules_text

CHART: Final = Path(__file__).parents[2] / "helm" / "fathom"
CASE_SUFFIX: Final = "-values.yaml"


def generated(chart: Path) -> dict[Path, str]:
    """The generated files of a chart's folder, and what they should be; raises ChartError."""
    values = read_values(chart / "values.yaml")
    about = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))
    cases = sorted(file.name.removesuffix(CASE_SUFFIX) for file in (chart / "ci").glob(f"*{CASE_SUFFIX}"))
    return {
        chart / "values.schema.json": schema_text(values),
        chart / "README.md": readme_text(about, values, cases),
        # Helm reads no file outside the chart
        chart / "files" / "rules.yml": rules_text(),
        **{chart / "files" / "dashboards" / name: text for name, text in dashboard_texts().items()},
    }


def main(argv: list[str] | None = None) -> int:
    """Write the files; with ``--check`` exit 1 where one is not what it should be. 2 for a fault in values.yaml."""
    parser = argparse.ArgumentParser(prog="python -m deploy.chart", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is not up to date")
    parser.add_argument("--chart", type=Path, default=CHART, help="the chart's folder (default: helm/fathom)")
    options = parser.parse_args(argv)
    try:
        wanted = generated(options.chart)
    except (ChartError, OSError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stale = [file for file, text in wanted.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    for file in stale:
        if not options.check:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(wanted[file], encoding="utf-8")
        print(f"{file.name}: {'not up to date; run python -m deploy.chart' if options.check else 'written'}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
