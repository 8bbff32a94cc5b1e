"""A whole run of NVIDIA's AIPerf against the gateway, in an environment of AIPerf's own.

Its pins do not go with ours: the first run makes the environment in ``.bench``. The model is the smaller one of
``examples/models``, served as it is; AIPerf counts tokens with that model's own tokenizer.
"""

import json
import subprocess
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.gateway.stand import MODEL, SOURCE, Stand, model_stand

ENVIRONMENT: Final = Path(__file__).resolve().parents[2] / ".bench" / "aiperf"
REQUIREMENT: Final = "aiperf==0.13.0"
REQUESTS: Final = 200
CONCURRENCY: Final = 8
"""Users who ask one request after the other."""

OUTPUT_TOKENS: Final = "32"
"""At most and at least: AIPerf counts an answer without text, as a model may give to a random prompt, as an error."""

ROWS: Final = {
    "time_to_first_token": "time to first token, ms",
    "inter_token_latency": "inter-token latency, ms",
    "request_latency": "request latency, ms",
    "output_sequence_length": "output tokens a request",
    "request_throughput": "requests/s",
    "output_token_throughput": "output tokens/s",
    "request_count": "requests",
    "error_request_count": "failed requests",
}
COLUMNS: Final = ("avg", "p50", "p90", "p99")


@dataclass(frozen=True, slots=True)
class AiperfRun:
    """What AIPerf found, by the names of its own JSON export."""

    metrics: dict[str, dict[str, Any]]

    def lines(self) -> list[str]:
        """The figures as a Markdown table."""
        lines = ["| AIPerf's figure | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
        for name, title in ROWS.items():
            found = self.metrics.get(name) or {"avg": 0}
            cells = [f"{found[each]:,.2f}".rstrip("0").rstrip(".") if each in found else "" for each in COLUMNS]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
        return lines


def measure() -> AiperfRun:
    """Start everything, let AIPerf run, and stop it. Raises CalledProcessError where AIPerf fails."""
    with model_stand() as running:
        return profile(
            running, "--warmup-request-count", "16", "--request-count", str(REQUESTS),
            "--concurrency", str(CONCURRENCY), "--output-tokens-mean", OUTPUT_TOKENS,
            "--extra-inputs", f"min_tokens:{OUTPUT_TOKENS}",
        )  # fmt: skip


def profile(running: Stand, *flags: str) -> AiperfRun:
    """Let AIPerf ask a gateway for streamed chats of 64 tokens. Raises CalledProcessError where it fails."""
    program = _program()
    with tempfile.TemporaryDirectory(prefix="fathom-aiperf-") as folder:
        command = [
            *(str(program), "profile", "--model", MODEL, "--url", f"http://127.0.0.1:{running.gateway_port}"),
            *("--endpoint-type", "chat", "--streaming", "--tokenizer", str(SOURCE)),
            *("--synthetic-input-tokens-mean", "64", "--random-seed", "1", *flags),
            *("--artifact-dir", folder, "--ui", "none", "--no-gpu-telemetry", "--no-server-metrics"),
        ]
        subprocess.run(command, check=True, cwd=folder)
        export = next(Path(folder).rglob("profile_export_aiperf.json"))
        found = json.loads(export.read_text(encoding="utf-8"))
    return AiperfRun({name: value for name, value in found.items() if isinstance(value, dict)})


def _program() -> Path:
    """AIPerf, installed if it is not."""
    program = ENVIRONMENT / "bin" / "aiperf"
    if not program.exists():
        print(f"installing {REQUIREMENT} in {ENVIRONMENT}")
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--quiet", REQUIREMENT], check=True)
    return program
