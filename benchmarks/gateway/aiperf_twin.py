"""NVIDIA's AIPerf through the gateway, and fathom-load over gRPC, on one twin whose times are set.

Both ask for the same: streamed answers of a set length, by as many users, in a closed loop. Tokens are those that the
server counts.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gateway.aiperf import AiperfRun, profile
from benchmarks.gateway.stand import MODEL, twin_stand
from benchmarks.twins import load_test

TTFT_MS: Final = 80
ITL_MS: Final = 10
TOKENS: Final = 40
USERS: Final = 8
REQUESTS: Final = 160
WARMUP_REQUESTS: Final = 8

_ANSWER_S: Final = (TTFT_MS + (TOKENS - 1) * ITL_MS) / 1e3
_ROWS: Final = {
    "time to first token, ms, p50": ("time_to_first_token", "ttft_ms", "p50", TTFT_MS),
    "time to first token, ms, p99": ("time_to_first_token", "ttft_ms", "p99", TTFT_MS),
    "inter-token latency, ms, p50": ("inter_token_latency", "itl_ms", "p50", ITL_MS),
    "request latency, ms, p50": ("request_latency", "request_latency_ms", "p50", _ANSWER_S * 1e3),
    "output tokens a request": ("output_sequence_length", "output_tokens", "avg", TOKENS),
    "requests/s": ("request_throughput", "request_throughput", "", USERS / _ANSWER_S),
    "output tokens/s": ("output_token_throughput", "output_token_throughput", "", USERS * TOKENS / _ANSWER_S),
    "requests": ("request_count", "succeeded", "", REQUESTS),
}
"""A row's title → AIPerf's name of the figure, fathom-load's, which statistic, and what was set."""


@dataclass(frozen=True, slots=True)
class TwinRuns:
    """What both tools found; ``recorded`` are the figures of fathom-load's report."""

    aiperf: AiperfRun
    recorded: dict[str, object]

    def lines(self) -> list[str]:
        """The figures side by side, as a Markdown table."""
        lines = ["| | set | AIPerf, through the gateway | fathom-load, over gRPC |", "|---|--:|--:|--:|"]
        for title, (theirs, ours, statistic, expected) in _ROWS.items():
            found = self.aiperf.metrics[theirs][statistic or "avg"]
            own = self.recorded[ours]
            recorded = own[statistic] if isinstance(own, dict) else own
            lines.append(f"| {title} | {expected:,.4g} | {found:,.2f} | {recorded:,.2f} |")
        return lines


def measure() -> TwinRuns:
    """Start a twin and a gateway, let both tools ask, one after the other, and stop everything."""
    flags = ["--ttft-ms", str(TTFT_MS), "--itl-ms", str(ITL_MS), "--max-batch", str(USERS)]
    with twin_stand(*flags) as running, tempfile.TemporaryDirectory(prefix="fathom-bench-") as folder:
        found = profile(
            running, "--warmup-request-count", str(WARMUP_REQUESTS), "--request-count", str(REQUESTS),
            "--concurrency", str(USERS), "--output-tokens-mean", str(TOKENS), "--use-server-token-count",
            "--extra-inputs", "ignore_eos:true",
        )  # fmt: skip
        report = load_test(
            f"127.0.0.1:{running.grpc_port}", Path(folder) / "report",
            ["--model", MODEL, "--task", "chat", "--users", USERS, "--requests", REQUESTS, "--input-tokens", 64],
            ["--output-tokens", TOKENS, "--ignore-eos", "--metrics-url", "off"],
        )  # fmt: skip
    return TwinRuns(found, report["stages"][0]["figures"])
