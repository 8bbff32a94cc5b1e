"""Where a run took place: versions, machine, commit; so that a report can be compared with another."""

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

_PACKAGES: Final = ("fathom-loadtest", "fathom-client", "locust", "gevent", "grpcio", "numpy")


@dataclass(frozen=True, slots=True)
class RunEnvironment:
    """The generator's side of a run. ``memory_bytes`` and ``cpu`` are None where the system does not tell."""

    versions: dict[str, str]
    system: str
    cpu: str | None
    cores: int
    memory_bytes: int | None
    git_commit: str | None

    @classmethod
    def here(cls) -> "RunEnvironment":
        """Describe this process, its machine and the working directory's commit."""
        import psutil

        return cls(
            versions={"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            cpu=_cpu_model(),
            cores=_cores(),
            memory_bytes=int(psutil.virtual_memory().total),
            git_commit=_git_commit(),
        )


def available_cores() -> float:
    """Cores that this process may keep busy: those that it may run on, or its container's limit where that is less.

    The limit is that of cgroup v2 (``cpu.max``), as Docker and Kubernetes set it.
    """
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return min(float(_cores()), float(quota) / float(period))
    except (OSError, ValueError):  # no cgroup of that kind, or "max"
        return float(_cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _git_commit() -> str | None:
    """Give the commit of the working directory, marked where files differ from it; None outside of git."""

    def git(*arguments: str) -> str:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)
        return answer.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit} with changes" if changed else commit
