"""How much load one core drives: fathom-load's own ceiling, exact records and all.

    python -m benchmarks.loadtest            # about two minutes; rewrites the table of docs/loadtest-recording.md
    python -m benchmarks.loadtest --seconds 3 --output /tmp/ceiling.json

``fathom-load run`` is held to one core and asks a server on another one that answers at once
(benchmarks/canned_server.py), in a closed loop, so that it does nothing but work: streams of 64 tokens, a response
each, and embeddings of one text a request. A second server is the twin, a real Triton, on the other core. The figures
are the report's own. ``per CPU second`` divides them by the processor time that the generator's process took: what it
would drive if the server never kept it waiting.

Exit status 1 if one core drives fewer streamed tokens/s or embedding requests/s than ``TOKENS_S`` and ``REQUESTS_S``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import machine
from benchmarks.twins import Twin

TOKENS_S: Final = 2_000
REQUESTS_S: Final = 1_500
RESULT: Final = machine.ROOT / "benchmarks" / "results" / "loadtest.json"
PAGE: Final = machine.ROOT / "docs" / "loadtest-recording.md"
STREAM: Final = ("--task", "generate", "--output-tokens", "64", "--ignore-eos")
EMBED: Final = ("--task", "embed")


@dataclass(frozen=True, slots=True)
class Load:
    """One load: its name in the table, the server and the model asked, and how."""

    name: str
    server: str
    model: str
    users: int
    arguments: tuple[str, ...]

    @property
    def figure(self) -> str:
        """The throughput that it is about."""
        return "output_token_throughput" if self.arguments is STREAM else "request_throughput"


LOADS: Final = (
    Load("streamed tokens", "prepared answers", "canned", 16, STREAM),
    Load("streamed tokens", "prepared answers", "canned", 128, STREAM),
    Load("embedding requests", "prepared answers", "canned", 16, EMBED),
    Load("embedding requests", "prepared answers", "canned", 128, EMBED),
    Load("streamed tokens", "twin on Triton", "chat", 64, STREAM),
    Load("embedding requests", "twin on Triton", "minilm", 64, EMBED),
)
TWIN: Final = (
    {"name": "chat", "ttft_ms": 5, "itl_ms": 5, "max_batch": 256},
    {"name": "minilm", "task": "embed", "latency_ms": 0, "max_batch": 64},
)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What came of a load, a second: units of throughput, shares of one core, lag in ms."""

    load: str
    server: str
    users: int
    per_second: float
    per_cpu_second: float
    loop_cpu_share: float
    process_cpu_share: float
    lag_p95_ms: float


def main() -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a run (default: %(default)s)")
    parser.add_argument("--only", help="loads whose name or server contains this; nothing is written")
    parser.add_argument("--output", type=Path, help="JSON to write in place of benchmarks/results and the page")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("error: this machine has one core; the generator and the server need one each")
    wanted = [load for load in LOADS if options.only is None or options.only in f"{load.name} {load.server}"]
    found: list[Ceiling] = []
    with tempfile.TemporaryDirectory() as folder:
        for server in dict.fromkeys(load.server for load in wanted):
            with serving(server, Path(folder), cores[1]) as url:
                for load in (each for each in wanted if each.server == server):
                    output = Path(folder) / f"{len(found)}"
                    found.append(measure(load, url, output, options.seconds, cores[0]))
                    print(row(found[-1]), flush=True)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "versions": machine.versions(["fathom-loadtest", "fathom-client", "grpcio", "locust", "gevent"]),
        "seconds": options.seconds,
        "ceilings": [asdict(each) for each in found],
    }
    if options.only is None:
        (options.output or RESULT).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        if options.output is None:
            write_page(result, found)
    faults = list(misses(found))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


@contextmanager
def serving(server: str, folder: Path, core: int) -> Iterator[str]:
    """Run a server on one core; gives its gRPC address."""
    if server == "twin on Triton":
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})  # its processes inherit it
        try:
            twin = Twin(folder / "twin", TWIN)
            twin.__enter__()
        finally:
            os.sched_setaffinity(0, own)
        try:
            yield twin.url
        finally:
            twin.__exit__()
        return
    command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.canned_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 (a pipe was asked for)
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.terminate()


def measure(load: Load, url: str, output: Path, seconds: float, core: int) -> Ceiling:
    """Run a load on one core; gives what its report says. Raises SystemExit where it failed."""
    prompts = output.with_suffix(".jsonl")
    prompts.write_text('{"prompt": "time year people way day man thing woman"}\n', encoding="utf-8")
    command = ["taskset", "-c", str(core), sys.executable, "-m", "fathom_loadtest", "run", "--url", url]
    command += ["--model", load.model, "--users", str(load.users), "--duration-s", str(seconds), *load.arguments]
    command += ["--prompts", str(prompts), "--output", str(output), "--metrics-url", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    (stage,) = json.loads((output / "report.json").read_text(encoding="utf-8"))["stages"]
    figures, generator = stage["figures"], stage["generator"]
    if figures["failed"]:
        raise SystemExit(f"error: {figures['failed']} requests failed: {figures['errors']}")
    per_second = figures[load.figure]
    return Ceiling(
        load=load.name,
        server=load.server,
        users=load.users,
        per_second=per_second,
        per_cpu_second=per_second / generator["process_cpu_share"],
        loop_cpu_share=generator["loop_cpu_share"],
        process_cpu_share=generator["process_cpu_share"],
        lag_p95_ms=generator["lag_ms"]["p95"],
    )


def misses(found: Sequence[Ceiling]) -> Iterator[str]:
    """Say which ceilings are too low, by the best of each load."""
    for name, wanted in (("streamed tokens", TOKENS_S), ("embedding requests", REQUESTS_S)):
        best = max((each.per_second for each in found if each.load == name), default=None)
        if best is not None and best < wanted:
            yield f"one core drives {best:.0f} {name}/s, not {wanted}"


HEAD: Final = (
    "| one core drives | of | users | a second | a CPU second | event loop | process | lag p95, ms |",
    "|---|---|--:|--:|--:|--:|--:|--:|",
)


def row(each: Ceiling) -> str:
    """One line of the table."""
    return (
        f"| {each.load} | {each.server} | {each.users} | {each.per_second:,.0f} | {each.per_cpu_second:,.0f} "
        f"| {each.loop_cpu_share:.0%} | {each.process_cpu_share:.0%} | {each.lag_p95_ms:.1f} |"
    )


def write_page(result: Mapping[str, Any], found: Sequence[Ceiling]) -> None:
    """Put the table between its marks in the page."""
    begin, end = "<!-- ceilings: written by benchmarks/loadtest.py -->", "<!-- end of ceilings -->"
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    described = ", ".join(str(each) for each in result["machine"].values())
    where = f"Processor, cores, GiB, system, Python: {described}. {versions}; commit {result['commit']}."
    table = "\n".join([*HEAD, *map(row, found)])
    PAGE.write_text(f"{before}{begin}\n{table}\n\n{where}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
