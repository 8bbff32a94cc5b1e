"""Measure the gateway, and write what was found into ``docs/gateway.md``.

    python -m benchmarks.gateway                # everything, about five minutes
    python -m benchmarks.gateway overhead       # or one of: overhead, connections, aiperf, aiperf-twin

The machine should have nothing else to do.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.gateway import aiperf, aiperf_twin, connections, overhead
from benchmarks.peers import machine

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "gateway.md"
PARTS: Final[dict[str, Callable[[], list[str]]]] = {
    "overhead": lambda: overhead.measure().lines(),
    "connections": lambda: connections.measure().lines(),
    "aiperf": lambda: aiperf.measure().lines(),
    "aiperf-twin": lambda: aiperf_twin.measure().lines(),
}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description="Measure the gateway; rewrites its figures in docs/gateway.md.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parts = parser.parse_args().parts or list(PARTS)
    unknown = sorted(set(parts) - PARTS.keys())
    if unknown:
        parser.error(f"{unknown[0]!r} is no part; there are {', '.join(PARTS)}")
    for name in parts:
        print(f"== {name}", flush=True)
        lines = [*PARTS[name](), "", _where()]
        print("\n".join(lines), flush=True)
        _write(name, lines)


def _where() -> str:
    found = machine.describe()
    packages = machine.versions(["fastapi", "grpcio", "uvicorn"])
    return (
        f"{found['processor']}, {found['cores']} cores, Python {found['python']}, "
        f"{', '.join(f'{name} {version}' for name, version in packages.items())}, commit {machine.commit()}."
    )


def _write(name: str, lines: list[str]) -> None:
    """Put a part's figures between its marks."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- bench-{name}: begin -->\n", f"<!-- bench-{name}: end -->"
    head, mark, rest = page.partition(begin)
    if not mark:
        raise SystemExit(f"error: {PAGE} has no mark {begin.strip()}")
    PAGE.write_text(head + mark + "\n".join(lines) + "\n" + end + rest.partition(end)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
