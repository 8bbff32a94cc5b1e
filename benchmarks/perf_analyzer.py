"""NVIDIA's ``perf_analyzer``, an independent judge of a unary load: fetched once, run on one concurrency.

The last wheel that holds its binary is tritonclient 2.41.0; the libraries that it wants, the wheel of Triton brings
under other names.
"""

import csv
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

WHEEL: Final = "tritonclient==2.41.0"
_LIBRARIES: Final = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
_US_PER_MS: Final = 1e3


@dataclass(frozen=True, slots=True)
class UnaryLoad:
    """What a closed loop of callers saw: answers a second, and the latency's median and tail in milliseconds."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


class PerfAnalyzer:
    """The tool, fetched into a cache folder. Raises SystemExit where it cannot be had."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / "perf_analyzer"
        self._binary = self._folder / "perf_analyzer"
        if not self._binary.exists():
            self._fetch()
        self._link_libraries()  # those of this environment

    def measure(self, url: str, model: str, text: str, callers: int, seconds: float) -> UnaryLoad:
        """Ask a model that takes one text, by so many callers at once, in three windows of equal length."""
        texts = self._folder / "texts.json"
        texts.write_text(json.dumps({"data": [{"text_input": {"content": [text], "shape": [1]}}]}))
        table = self._folder / "result.csv"
        table.unlink(missing_ok=True)
        command = [
            str(self._binary), "-m", model, "-u", url, "-i", "grpc", "--input-data", str(texts),
            "--concurrency-range", str(callers), "--measurement-interval", str(round(seconds / 3 * 1000)),
            "--stability-percentage", "50", "--max-trials", "3", "--percentile", "50", "-f", str(table),
        ]  # fmt: skip
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        if not table.exists():
            raise SystemExit(f"error: perf_analyzer measured nothing:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        with table.open(newline="", encoding="utf-8") as file:
            [row] = csv.DictReader(file)
        return UnaryLoad(
            requests_per_s=float(row["Inferences/Second"]),
            p50_ms=float(row["p50 latency"]) / _US_PER_MS,
            p99_ms=float(row["p99 latency"]) / _US_PER_MS,
        )

    def _fetch(self) -> None:
        print(f"fetching {WHEEL} into {self._folder}", flush=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(self._folder), WHEEL]
        subprocess.run(pip, check=True)
        [wheel] = self._folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as content:
            [name] = [each for each in content.namelist() if each.endswith("/bin/perf_analyzer")]
            data = content.read(name)
        wheel.unlink()
        beside = self._binary.with_suffix(".new")
        beside.write_bytes(data)
        beside.chmod(0o755)
        beside.rename(self._binary)

    def _link_libraries(self) -> None:
        wheel = find_spec("pytriton")
        if wheel is None or not wheel.submodule_search_locations:
            raise SystemExit("error: perf_analyzer's libraries come from nvidia-pytriton; make setup")
        libraries = Path(wheel.submodule_search_locations[0]).parent / "nvidia_pytriton.libs"
        for name, pattern in _LIBRARIES.items():
            link = self._folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(next(libraries.glob(pattern)))

    def _environment(self) -> dict[str, str]:
        folders = [str(self._folder), os.environ.get("LD_LIBRARY_PATH", "")]
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders))}
