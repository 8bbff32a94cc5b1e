"""What the benchmark asks the machine: its name, and what a tree of processes uses of memory and processor."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

ROOT: Final = Path(__file__).resolve().parents[2]
KIB: Final = 1024
MIB: Final = 1 << 20
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """A process tree's memory in MiB: resident now, its peak, and resident with shared pages divided among sharers."""

    rss_mib: float
    peak_rss_mib: float
    pss_mib: float


def process_tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; none if it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory(pid: int) -> Memory:
    """Memory of a process and all below it, summed."""
    rss = peak = pss = 0
    for process in process_tree(pid):
        try:
            status = _fields(Path(f"/proc/{process.pid}/status"))
            rollup = _fields(Path(f"/proc/{process.pid}/smaps_rollup"))
        except OSError:
            continue  # it ended meanwhile
        rss, peak, pss = rss + status.get("VmRSS", 0), peak + status.get("VmHWM", 0), pss + rollup.get("Pss", 0)
    return Memory(*(round(kib * KIB / MIB, 1) for kib in (rss, peak, pss)))


def forget_peak(pid: int) -> None:
    """Let the peak of a process tree's memory begin anew."""
    for process in process_tree(pid):
        Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="ascii")


def processor_s(pids: Iterable[int]) -> float:
    """Seconds of processor time that these processes and all below them have used."""
    total = 0.0
    for pid in pids:
        for process in process_tree(pid):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
    return total


def machine_processor_s() -> float:
    """Seconds of processor time that the whole machine has used, other virtual machines' part included."""
    fields = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]]
    user, nice, system, _, _, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq + steal) * _TICK_S


def describe() -> dict[str, Any]:
    """The machine, for a result's head."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def thread_times_s(pid: int) -> dict[int, float]:
    """Seconds of processor time of each thread of a process and all below it, by its id."""
    times = {}
    for process in process_tree(pid):
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            try:
                fields = (task / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            times[int(task.name)] = (int(fields[11]) + int(fields[12])) * _TICK_S
    return times


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions."""
    return {package: importlib.metadata.version(package) for package in packages}


def commit() -> str:
    """The repository's commit, with ``-dirty`` where files differ from it that benchmarks do not write themselves."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    ours = [".", ":!benchmarks/results", ":!docs"]
    is_clean = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *ours], check=False).returncode == 0
    return f"{found.stdout.strip()}{'' if is_clean else '-dirty'}" if found.returncode == 0 else "unknown"


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file of ``Name:  NUMBER kB`` lines."""
    fields = {}
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words[1:] == ["kB"]:
            fields[name] = int(words[0])
    return fields
