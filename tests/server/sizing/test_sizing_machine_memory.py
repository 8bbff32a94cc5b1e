"""How much memory a process may use: the machine's, or what its control groups leave it."""

from pathlib import Path

import pytest

from fathom_server.sizing.machine_memory import memory_limit

GIB = 1 << 30


def files(folder: Path, contents: dict[str, str]) -> tuple[Path, Path, Path]:
    """A machine of 16 GiB whose other files hold ``contents``."""
    for name, text in {"meminfo": f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\n", **contents}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "meminfo", folder / "cgroup", folder / "groups"


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        pytest.param({}, 16 * GIB, id="no groups"),
        pytest.param({"groups/memory.max": "max\n"}, 16 * GIB, id="version 2 without a limit"),
        pytest.param({"groups/memory.max": f"{3 * GIB}\n"}, 3 * GIB, id="a container of version 2"),
        pytest.param(
            {"cgroup": "0::/a/b\n", "groups/a/memory.max": f"{5 * GIB}", "groups/a/b/memory.max": "max"},
            5 * GIB,
            id="a group above the own one",
        ),
        pytest.param({"groups/memory/memory.limit_in_bytes": f"{2 * GIB}"}, 2 * GIB, id="a container of version 1"),
        pytest.param(
            {"cgroup": "9:cpu,memory:/x\n", "groups/memory/x/memory.limit_in_bytes": f"{4 * GIB}"},
            4 * GIB,
            id="version 1",
        ),
        pytest.param({"groups/memory/memory.limit_in_bytes": "9223372036854771712"}, 16 * GIB, id="version 1, none"),
        pytest.param({"groups/memory.max": "nonsense"}, 16 * GIB, id="a file that says nothing"),
    ],
)
def test_the_lowest_limit_counts(tmp_path: Path, contents: dict[str, str], expected: int) -> None:
    """The machine's memory, or the limit of any group around the process."""
    assert memory_limit(*files(tmp_path, contents)) == expected


def test_nobody_knows(tmp_path: Path) -> None:
    """Where no file is there, no limit is known."""
    assert memory_limit(tmp_path / "none", tmp_path / "none", tmp_path / "none") is None


def test_this_machine_has_memory() -> None:
    """The real files give a number."""
    found = memory_limit()
    assert found is not None
    assert found > 64 << 20
