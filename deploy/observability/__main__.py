"""``python -m deploy.observability``: write rules and dashboards, or say whether they are up to date."""

import argparse
import sys
from pathlib import Path
from typing import Final

from deploy.observability.dashboards import dashboard_texts
from deploy.observability.rules import rules_text

FOLDER: Final = Path(__file__).parent
RULES: Final = Path("rules") / "fathom.yml"
DASHBOARDS: Final = Path("grafana") / "dashboards"


def generated(folder: Path) -> dict[Path, str]:
    """The generated files of a folder, and what they should be."""
    boards = {folder / DASHBOARDS / name: text for name, text in dashboard_texts().items()}
    return {folder / RULES: rules_text(), **boards}


def main(argv: list[str] | None = None) -> int:
    """Write the files; with ``--check`` exit 1 where one is not what it should be. 2 where they cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m deploy.observability", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is not up to date")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where (default: deploy/observability)")
    options = parser.parse_args(argv)
    wanted = generated(options.folder)
    stale = [file for file, text in wanted.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    for file in stale:
        if not options.check:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(wanted[file], encoding="utf-8")
            except OSError as error:
                print(f"error: {file} cannot be written ({error.strerror}); name another --folder", file=sys.stderr)
                return 2
        print(f"{file.name}: {'not up to date; run python -m deploy.observability' if options.check else 'written'}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
