"""The demo: two checkpoints to a served, driven, measured Triton on this machine.

Run by ``make demo``. It uses the tools that a user would: fathom-export, fathom-serve, the client, fathom-load.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from fathom_client import Client

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / ".fathom" / "demo"
REPORT: Final = ROOT / "reports" / "demo"
TRITON_LOG: Final = WORK / "triton.log"
BIN: Final = Path(sys.executable).parent
READY_TIMEOUT_S: Final = 120
STOP_TIMEOUT_S: Final = 30

SENTENCES: Final = (
    "The engine was built for another GPU and refuses to load.",
    "Our server runs out of memory when many users write at once.",
    "How do I cook rice without a lid?",
    "The plan file does not match the graphics card in this machine.",
    "Every request in flight needs its own share of the KV cache.",
    "Put the lid aside and let the rice simmer gently.",
)
QUESTIONS: Final = (
    "What is 23 + 45?",
    "Sort alphabetically: ship, lamp, apple, kettle",
    "Anna: Lima\nBen: Oslo\nKarin: Rome\nWhere does Ben live?",
    "Convert the date 2026-11-21 to day month year.",
    "Write JSON: name is Anna, age is 34.",
    "Say exactly: café 日本 🚀",
)

console = Console(highlight=False)


def main() -> int:
    """Run the demo; returns the exit status."""
    began = time.monotonic()
    WORK.mkdir(parents=True, exist_ok=True)
    _step("Export: checkpoints → ONNX → a Triton model repository (bundle.toml)")
    _run("fathom-export", "bundle.toml", "--repository", "model_repository")
    _step("Serve: NVIDIA's tritonserver with the models of model_repository")
    with _server() as ports, Client(f"127.0.0.1:{ports['grpc']}") as client:
        console.print(f"ready: gRPC on port {ports['grpc']}, HTTP {ports['http']}, metrics {ports['metrics']}")
        _step("Embed: nearest neighbours by minilm")
        _show_neighbours(client)
        _step("Generate: answers streamed by chat, with the engine's own numbers")
        _show_answers(client)
        _step("Measure: Locust over streaming gRPC, 1, 4 and 16 users")
        _run(
            *("fathom-load", "run", "--url", f"127.0.0.1:{ports['grpc']}", "--model", "chat", "--task", "chat"),
            *("--prompts", str(_prompt_set()), "--users", "1,4,16", "--duration-s", "8"),
            *("--set", f"target.metrics_url=http://127.0.0.1:{ports['metrics']}/metrics"),
            *("--repository", "model_repository", "--slo", "ttft_ms=1000,itl_ms=100"),
            *("--output", str(REPORT)),
        )
        _step("Stop")
    console.print(f"report   {(REPORT / 'report.html').relative_to(ROOT)}")
    console.print(f"log      {TRITON_LOG.relative_to(ROOT)}")
    console.print(f"models   model_repository/, to be served again by {BIN.relative_to(ROOT)}/fathom-serve")
    console.print(f"the demo took {time.monotonic() - began:.0f} s")
    return 0


def _step(text: str) -> None:
    console.print(f"\n[bold]== {text}[/bold]")


def _run(tool: str, *arguments: str) -> None:
    subprocess.run([str(BIN / tool), *arguments], check=True, cwd=ROOT)


@contextlib.contextmanager
def _server() -> Iterator[dict[str, Any]]:
    """A running fathom-serve; stopped whatever happens in between."""
    ports_file = WORK / "ports.json"
    ports_file.unlink(missing_ok=True)
    command = [str(BIN / "fathom-serve"), "model_repository", "--ports", "auto", "--ports-file", str(ports_file)]
    command += ["--log-level", "warning", "--log-file", str(TRITON_LOG)]
    # its own session, so that Ctrl-C reaches this script first, which then ends it in order
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        with console.status("waiting for the models to load"):
            deadline = time.monotonic() + READY_TIMEOUT_S
            while not ports_file.exists():
                if process.poll() is not None:
                    raise DemoError(f"fathom-serve ended with status {process.returncode}; see {TRITON_LOG}")
                if time.monotonic() > deadline:
                    raise DemoError(f"the models were not ready within {READY_TIMEOUT_S} s; see {TRITON_LOG}")
                time.sleep(0.1)
        yield json.loads(ports_file.read_text(encoding="utf-8"))
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class DemoError(Exception):
    """The demo cannot go on."""


def _prompt_set() -> Path:
    """Write the held-out questions as a prompt set for the load test."""
    rows = (ROOT / "examples" / "models" / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    path = WORK / "prompts.jsonl"
    path.write_text("".join(json.dumps({"messages": json.loads(row)["messages"]}) + "\n" for row in rows))
    return path


def _show_neighbours(client: Client) -> None:
    vectors = client.embed("minilm", list(SENTENCES)).vectors
    similarity = vectors @ vectors.T
    table = Table("sentence", "nearest", "cosine", box=None, padding=(0, 2, 0, 0))
    for row, sentence in enumerate(SENTENCES):
        nearest = int(similarity[row].argsort()[-2])
        table.add_row(sentence, SENTENCES[nearest], f"{similarity[row, nearest]:.3f}")
    console.print(table)


def _show_answers(client: Client) -> None:
    for question in QUESTIONS:
        console.print(f"[bold]{question}[/bold]")
        began = time.perf_counter()
        first_s = None
        with client.stream_chat("chat", [{"role": "user", "content": question}], max_tokens=64) as stream:
            for chunk in stream:
                first_s = first_s or time.perf_counter() - began
                console.print(chunk.text, end="", markup=False)
            answer = stream.result()
        total_ms = (time.perf_counter() - began) * 1e3
        console.print(
            f"\n[dim]{answer.num_input_tokens} tokens in, {answer.num_output_tokens} out, first after "
            f"{(first_s or 0) * 1e3:.1f} ms, all after {total_ms:.1f} ms[/dim]"
        )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left running")
        sys.exit(130)
    except DemoError as error:
        console.print(f"error: {error}", markup=False)
        sys.exit(1)
    except subprocess.CalledProcessError as error:
        console.print(f"error: {Path(error.cmd[0]).name} ended with status {error.returncode}", markup=False)
        sys.exit(error.returncode)
