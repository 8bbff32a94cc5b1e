"""The recorder's proof: what fathom-load reports of a twin whose times are set, beside perf_analyzer's figures.

    python -m benchmarks.recorder            # about three minutes; rewrites the tables of docs/twin.md

1. TTFT, ITL and the gaps between responses that the twin is told come back in fathom-load's report, by their medians.
2. A unary load has the same latency and throughput by fathom-load and by NVIDIA's perf_analyzer, in turns.
3. The twin's own ceiling: more and more streams, read by a client that only counts bytes, in one process.

Exit status 1 if a median of the first is more than ``LIMIT_MS`` off, beside the way through Triton that a TTFT of 0
shows, or one of the second more than ``LIMIT_SHARE``.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import machine
from benchmarks.perf_analyzer import PerfAnalyzer, UnaryLoad
from benchmarks.twins import Twin, load_test, read_streams

from fathom_loadtest.twin.distribution import Distribution

LIMIT_MS: Final = 2.0
LIMIT_SHARE: Final = 0.05
RESULT: Final = machine.ROOT / "benchmarks" / "results" / "recorder.json"
PAGE: Final = machine.ROOT / "docs" / "twin.md"
TOKENS: Final = 40
TEXT: Final = "time year people way day"
UNARY_MS: Final = (10, 50)
"""A batch's time; what tools add themselves is judged at the second."""
CEILING_ITL_MS: Final = 10


@dataclass(frozen=True, slots=True)
class Setting:
    """Times that a twin is told, and the users that ask it."""

    ttft_ms: str
    itl_ms: str
    users: int

    @property
    def name(self) -> str:
        """The model's name."""
        return f"set_{self.ttft_ms}_{self.itl_ms}_{self.users}".replace(":", "_").replace(",", "_")

    @property
    def answer_s(self) -> float:
        """Seconds of an answer."""
        return (Distribution.parse(self.ttft_ms).mean + (TOKENS - 1) * Distribution.parse(self.itl_ms).mean) / 1e3


SETTINGS: Final = (
    Setting("0", "2", 1),  # what comes back is the way alone: client, gRPC, Triton, and back
    Setting("10", "2", 1),
    Setting("20", "5", 4),
    Setting("50", "10", 8),
    Setting("normal:50,5", "lognormal:10,3", 8),
    Setting("100", "20", 16),
    Setting("200", "40", 32),
)
UNARY_CALLERS: Final = (1, 4)
CEILING_STREAMS: Final = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure: what was set, or what the other tool saw, and what fathom-load reports."""

    figure: str
    expected: float
    reported: float


def main() -> int:
    """Run the proof; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each tool (default: %(default)s)")
    parser.add_argument("--only", choices=["times", "unary", "ceiling"], help="one of the three; nothing is written")
    parser.add_argument("--output", type=Path, help="JSON to write in place of benchmarks/results and docs/twin.md")
    options = parser.parse_args()
    wanted = {options.only} if options.only else {"times", "unary", "ceiling"}
    result: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "versions": machine.versions(["fathom-loadtest", "nvidia-pytriton", "grpcio", "locust", "gevent"]),
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if "times" in wanted:
            result["times"] = measure_times(work, options.seconds)
        if "unary" in wanted:
            result["unary"] = measure_unary(work, options.seconds, options.rounds)
        if "ceiling" in wanted:
            result["ceiling"] = measure_ceiling(work, options.seconds)
    print("\n\n".join(tables(result)))
    if options.only is None:
        path = options.output or RESULT
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        if options.output is None:
            write_page(result)
    faults = list(misses(result))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


def measure_times(work: Path, seconds: float) -> list[dict[str, Any]]:
    """Ask a twin of each setting; gives the comparisons."""
    models = [
        {"name": each.name, "ttft_ms": each.ttft_ms, "itl_ms": each.itl_ms, "max_batch": each.users}
        for each in SETTINGS
    ]
    found = []
    with Twin(work / "times", models) as twin:
        for each in SETTINGS:
            requests = max(each.users, round(each.users * seconds / each.answer_s))
            report = load_test(
                twin.url, work / each.name,
                ["--model", each.name, "--users", each.users, "--requests", requests, "--input-tokens", 32],
                ["--output-tokens", TOKENS, "--ignore-eos", "--ramp-s", each.answer_s],
            )  # fmt: skip
            figures = report["stages"][0]["figures"]
            ttft, itl = Distribution.parse(each.ttft_ms), Distribution.parse(each.itl_ms)
            comparisons = [
                Comparison("ttft_ms", ttft.median, figures["ttft_ms"]["p50"]),
                Comparison("itl_ms", itl.mean, figures["itl_ms"]["p50"]),  # a request's is a mean of many
                Comparison("inter_chunk_latency_ms", itl.median, figures["inter_chunk_latency_ms"]["p50"]),
            ]
            found.append(
                {**asdict(each), "requests": figures["succeeded"], "figures": [asdict(one) for one in comparisons]}
            )
            print(
                each.name, *(f"{one.figure} {one.expected:g} → {one.reported:.3f}" for one in comparisons), flush=True
            )
    return found


def measure_unary(work: Path, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Let both tools ask an embedding twin in turns; gives the medians of the rounds."""
    perf_analyzer = PerfAnalyzer(machine.ROOT / ".bench")
    prompts = work / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": TEXT}) + "\n")
    models = [
        {"name": f"unary_{ms}", "task": "embed", "latency_ms": ms, "max_batch": 1, "instances": max(UNARY_CALLERS)}
        for ms in UNARY_MS
    ]
    found = []
    with Twin(work / "unary", models) as twin:
        for latency_ms, callers in itertools.product(UNARY_MS, UNARY_CALLERS):
            model = f"unary_{latency_ms}"
            ours: list[UnaryLoad] = []
            theirs: list[UnaryLoad] = []
            for turn in range(rounds):
                theirs.append(perf_analyzer.measure(twin.url, model, TEXT, callers, seconds))
                report = load_test(
                    twin.url, work / f"{model}-{callers}-{turn}",
                    ["--model", model, "--task", "embed", "--users", callers, "--duration-s", seconds],
                    ["--prompts", prompts],
                )  # fmt: skip
                figures = report["stages"][0]["figures"]
                latency = figures["request_latency_ms"]
                ours.append(UnaryLoad(figures["request_throughput"], latency["p50"], latency["p99"]))
                print(f"{model}, {callers} callers: perf_analyzer {theirs[-1]}, fathom-load {ours[-1]}", flush=True)
            comparisons = [
                Comparison(name, _median(theirs, name), _median(ours, name)) for name in ("requests_per_s", "p50_ms")
            ]
            found.append(
                {
                    "latency_ms": latency_ms,
                    "callers": callers,
                    "figures": [asdict(one) for one in comparisons],
                    "perf_analyzer": [asdict(one) for one in theirs],
                    "fathom_load": [asdict(one) for one in ours],
                }
            )
    return found


def measure_ceiling(work: Path, seconds: float) -> list[dict[str, Any]]:
    """Read more and more streams of one twin at once; gives tokens a second, and what they cost the server."""
    model = {"name": "chat", "ttft_ms": 50, "itl_ms": CEILING_ITL_MS, "max_batch": max(CEILING_STREAMS)}
    found = []
    with Twin(work / "ceiling", [model]) as twin:
        tokens = round(seconds * 1e3 / CEILING_ITL_MS)
        for streams in CEILING_STREAMS:
            asyncio.run(read_streams(twin.url, "chat", streams, 20))
            pid = twin.process.pid
            before_s, reader_s, begin_s = machine.processor_s([pid]), time.process_time(), time.perf_counter()
            reads = asyncio.run(read_streams(twin.url, "chat", streams, tokens))
            wall_s = time.perf_counter() - begin_s
            itls_ms = [each.itl_ms for each in reads]
            one = {
                "streams": streams,
                "tokens_per_s": streams * tokens / wall_s,
                "responses_per_s": sum(each.responses for each in reads) / wall_s,
                "itl_ms_p50": statistics.median(itls_ms),
                "itl_ms_max": max(itls_ms),
                "server_cores": (machine.processor_s([pid]) - before_s) / wall_s,
                "reader_cores": (time.process_time() - reader_s) / wall_s,
            }
            print({name: round(value, 2) for name, value in one.items()}, flush=True)
            found.append(one)
    return found


def misses(result: dict[str, Any]) -> list[str]:
    """Say which figures are further off than the limits."""
    times = [
        f"{one['users']} users: {each['figure']} {each['reported']:.3f}, set {each['expected']:g}"
        for one in result.get("times", [])
        for each in one["figures"]
        if not -LIMIT_MS <= each["reported"] - each["expected"] <= _way_ms(result, each["figure"]) + LIMIT_MS
    ]
    unary = [
        f"{one['callers']} callers: {each['figure']} differs by more than {LIMIT_SHARE:.0%}"
        for one in result.get("unary", [])
        for each in one["figures"]
        if one["latency_ms"] == max(UNARY_MS) and abs(each["reported"] / each["expected"] - 1) > LIMIT_SHARE
    ]
    return times + unary


def tables(result: dict[str, Any]) -> list[str]:
    """The tables of a result that has them, as Markdown."""
    made = []
    if "times" in result:
        rows = [
            [*(one[name] for name in ("ttft_ms", "itl_ms", "users", "requests")), *_told(one["figures"])]
            for one in result["times"]
        ]
        heads = ["TTFT set", "ITL set", "users", "requests", "TTFT p50", "ITL p50", "gap p50"]
        made.append(_table(heads, rows))
    if "unary" in result:
        rows = [
            [one["latency_ms"], one["callers"], *_seen(one["figures"]), _differences(one["figures"])]
            for one in result["unary"]
        ]
        heads = ["ms set", "callers", "requests/s perf_analyzer", "fathom-load", "p50 ms perf_analyzer", "fathom-load"]
        made.append(_table([*heads, "differ"], rows))
    if "ceiling" in result:
        rows = [
            [one["streams"], *(f"{one[name]:.0f}" for name in ("tokens_per_s", "responses_per_s")),
             *(f"{one[name]:.2f}" for name in ("itl_ms_p50", "itl_ms_max", "server_cores", "reader_cores"))]
            for one in result["ceiling"]
        ]  # fmt: skip
        heads = ["streams", "tokens/s", "responses/s", "ITL p50", "ITL max", "server, cores", "reader, cores"]
        made.append(_table(heads, rows))
    return made


def write_page(result: dict[str, Any]) -> None:
    """Put the tables into docs/twin.md, each between its marks, under a line that says where they come from."""
    page = PAGE.read_text(encoding="utf-8")
    where = result["machine"]
    head = f"{where['processor']}, {where['cores']} cores, {where['system']}, Python {where['python']}"
    head += f"; commit {result['commit']}, {result['date'][:10]}."
    for name, table in zip(("times", "unary", "ceiling"), tables(result), strict=True):
        begin, end = f"<!-- recorder-{name}: begin -->", f"<!-- recorder-{name}: end -->"
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{table}\n\n{head}\n{end}{rest.split(end)[1]}"
    PAGE.write_text(page, encoding="utf-8")


def _told(figures: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{each['reported']:.2f} ({each['reported'] - each['expected']:+.2f})" for each in figures]


def _way_ms(result: dict[str, Any], figure: str) -> float:
    """What a twin whose TTFT is 0 is reported with: the way there and back, which every first token has."""
    shortest: dict[str, float] = result["times"][0]["figures"][0]
    return shortest["reported"] if figure == shortest["figure"] else 0.0


def _seen(figures: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{each[side]:.2f}" for each in figures for side in ("expected", "reported")]


def _differences(figures: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{each['reported'] / each['expected'] - 1:+.1%}" for each in figures)


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _median(loads: Sequence[UnaryLoad], name: str) -> float:
    return statistics.median(getattr(load, name) for load in loads)


if __name__ == "__main__":
    sys.exit(main())
