"""``fathom-fit`` against what served models really take: memory and speed of four decoders in three precisions.

    python -m benchmarks.fit                  # about fifteen minutes; rewrites the tables in docs/fit.md
    python -m benchmarks.fit memory           # one of the two
    python -m benchmarks.fit speed --models 5m 60m

The models are ``large`` of examples/models and random weights of three other shapes (one without grouped queries, two
of SmolLM2's). Each is exported and served by ``fathom-serve``. Memory is the resident set of the engine's process when
it is ready, and its growth for each request of a batch that finds the cache's blocks untouched. Speed is what a gRPC
client sees: the time between two tokens while a whole batch generates, and the first token of a prompt alone; the
fastest of several rounds, predicted from the faster of two calibrations, before and after: whatever else the machine
does only adds.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.page import write_part
from benchmarks.peers import machine
from benchmarks.peers.checkpoint import ModelShape, write_checkpoint
from benchmarks.peers.served import Served, serve_repository

from fathom_client import AsyncClient
from fathom_export.fit.calibrate import calibrate
from fathom_export.fit.probes import Effort
from fathom_server.engine.settings import EngineSettings
from fathom_server.sizing.gate import engine_memory
from fathom_server.sizing.memory import EngineMemory, Load
from fathom_server.sizing.roofline import Processor, decode_seconds, prefill_seconds
from fathom_server.sizing.served import ServedProcessor

PAGE: Final = machine.ROOT / "docs" / "fit.md"
RESULT: Final = machine.ROOT / "benchmarks" / "results" / "fit.json"
WORK: Final = machine.ROOT / ".bench" / "fit"
MODEL: Final = "chat"
PRECISIONS: Final = ("fp32", "int8", "int4")
SHAPES: Final[dict[str, ModelShape | None]] = {
    "5m": None,  # large, of examples/models
    "60m": ModelShape(hidden=512, layers=10, heads=8, kv_heads=8, head_dim=64, intermediate=2048, vocabulary=32768),
    "135m": ModelShape(hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, intermediate=1536),
    "360m": ModelShape(),
}
PROMPT: Final = 256
ANSWER: Final = 64
TOGETHER: Final = (2, 6, 8)
"""Requests of each wave; the last one's growth counts. Slots that a wave before has used grow no more."""
BATCHES: Final = (1, 4, 8)
PROMPTS: Final = (128, 512)
ROUNDS: Final = 2
MIB: Final = 1 << 20
FIRST_ID: Final = 3


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of one model: what was predicted and what was seen."""

    model: str
    precision: str
    what: str
    predicted: float
    measured: float

    @property
    def deviation(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Export what is missing, serve, measure, write; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=("memory", "speed"), help="(default: both)")
    parser.add_argument("--models", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON to write instead of results and docs")
    options = parser.parse_args(argv)
    parts = (options.part,) if options.part else ("memory", "speed")
    memories: list[Compared] = []
    seen: list[tuple[str, str, EngineMemory, dict[str, float]]] = []
    processors = [probe()] if "speed" in parts else []
    for model in options.models:
        for precision in options.precisions:
            repository = export(model, precision)
            engine = engine_memory(repository / MODEL / "1")[0]
            with serve_repository(repository) as server:
                if "memory" in parts:
                    memories += memory(model, precision, engine, server)
                    say(memories[-2:])
                if "speed" in parts:
                    seen.append((model, precision, engine, speed(engine, server)))
                    print(f"{model} {precision}: {seen[-1][3]}", flush=True)
    found = {"memory": memories} if "memory" in parts else {}
    if "speed" in parts:
        processors.append(probe())
        found["speed"] = [one for each in seen for one in compared(processors, *each)]
    write(found, options.output)
    return 0


def say(ones: Sequence[Compared]) -> None:
    """Print figures as they come."""
    for one in ones:
        text = f"predicted {one.predicted:.4g}, measured {one.measured:.4g}, {one.deviation:+.1%}"
        print(f"{one.model} {one.precision}, {one.what}: {text}", flush=True)


def compared(
    processors: Sequence[Processor], model: str, precision: str, engine: EngineMemory, measured: dict[str, float]
) -> list[Compared]:
    """Each figure with the lesser of its predictions."""
    predictions = [predict(processor, engine) for processor in processors]
    return [
        Compared(model, precision, what, min(prediction[what] for prediction in predictions), value)
        for what, value in measured.items()
    ]


def export(model: str, precision: str) -> Path:
    """The model's repository, exported by this very code."""
    shape = SHAPES[model]
    source = machine.ROOT / "examples" / "models" / "large" if shape is None else WORK / f"checkpoint-{model}"
    if shape is not None:
        write_checkpoint(source, shape)
    repository = WORK / f"{model}-{precision}"
    command = [sys.executable, "-m", "fathom_export.cli", str(source), "--repository", str(repository), "--name", MODEL]
    command += ["--task", "generate", "--precision", precision, "--quality", "off"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    newest = max(int(path.name) for path in (repository / MODEL).iterdir() if path.name.isdigit())
    if newest != 1 or EngineSettings.load(repository / MODEL / "1").stored is None:
        subprocess.run(["rm", "-r", str(repository)], check=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return repository


def memory(model: str, precision: str, engine: EngineMemory, server: Served) -> list[Compared]:
    """Resident MiB when ready, and MiB that a request adds."""
    pid = engine_process(server)
    time.sleep(1.0)  # grammars are prepared in a thread
    loaded = resident_mib(pid)
    sizes = [loaded]
    for wave, requests in enumerate(TOGETHER):
        asyncio.run(ask(server.url, requests, PROMPT, ANSWER, engine.shape.vocabulary, seed=wave))
        sizes.append(resident_mib(pid))
    is_native = engine.form.runner == "native"
    # blocks are new for every request; of slots, a wave takes as many new ones as it is larger than those before
    added = TOGETHER[-1] if is_native else TOGETHER[-1] - TOGETHER[-2]
    growth = (sizes[-1] - sizes[-2]) / added
    idle, busy = (engine.under(Load(requests, PROMPT, ANSWER)).total for requests in (0, 1))
    return [
        Compared(model, precision, "load", engine.at_load().total / MIB, loaded),
        Compared(model, precision, "request", (busy - idle) / MIB, growth),
    ]


def engine_process(server: Served) -> int:
    """The process of the engine: the stub that runs the backend ``fathom``."""
    for process in machine.process_tree(server.pid):
        if f" {MODEL}_0_0 " in " ".join(process.cmdline()):
            return process.pid
    raise SystemExit("error: the engine's process was not found")


def resident_mib(pid: int) -> float:
    """A process's resident set."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def probe() -> Processor:
    """What this machine does now."""
    return calibrate(Effort(), lambda _: None).processor


def predict(processor: Processor, engine: EngineMemory) -> dict[str, float]:
    """Milliseconds by what is measured."""
    shape, form, chunk = engine.shape, engine.form, engine.limits.prefill_chunk
    served = ServedProcessor(processor)
    found = {
        f"ITL, {batch} at once": 1e3 * decode_seconds(served, shape, form, batch, PROMPT + ANSWER / 2).seconds
        for batch in BATCHES
    }
    for prompt in PROMPTS:
        found[f"TTFT of {prompt}"] = 1e3 * prefill_seconds(served, shape, form, prompt, chunk).seconds
    return found


def speed(engine: EngineMemory, server: Served) -> dict[str, float]:
    """Milliseconds as a client sees them, the least of the rounds."""
    found: dict[str, float] = {}

    def note(name: str, milliseconds: float) -> None:
        found[name] = min(found.get(name, milliseconds), milliseconds)

    for turn in range(ROUNDS):
        for batch in BATCHES:
            answers = asyncio.run(
                ask(server.url, batch, PROMPT, ANSWER, engine.shape.vocabulary, seed=100 * turn + batch)
            )
            note(f"ITL, {batch} at once", itl_ms(answers))
        for prompt in PROMPTS:
            ((first, *_),) = asyncio.run(
                ask(server.url, 1, prompt, 1, engine.shape.vocabulary, seed=1000 * turn + prompt)
            )
            note(f"TTFT of {prompt}", 1e3 * first[0])
    return found


def itl_ms(answers: Sequence[Sequence[tuple[float, int]]]) -> float:
    """Milliseconds between two tokens of an answer while all generate: the last one has begun, the first not ended."""
    begin, end = max(answer[0][0] for answer in answers), min(answer[-1][0] for answer in answers)
    tokens = [sum(count for at, count in answer if begin < at <= end) for answer in answers]
    return 1e3 * (end - begin) * len(tokens) / sum(tokens)


async def ask(
    url: str, requests: int, prompt: int, answer: int, vocabulary: int, *, seed: int
) -> list[list[tuple[float, int]]]:
    """Random prompts at once: of each answer's responses, when they came in seconds and with how many tokens."""
    rng = random.Random(seed)
    prompts = [[rng.randrange(FIRST_ID, vocabulary) for _ in range(prompt)] for _ in range(requests)]
    async with AsyncClient(url, timeout=None) as client:
        await client.generate(MODEL, [FIRST_ID], max_tokens=1, ignore_eos=True)  # the connection is there
        began = time.perf_counter()

        async def one(ids: list[int]) -> list[tuple[float, int]]:
            return [
                (time.perf_counter() - began, chunk.num_output_tokens)
                async for chunk in client.stream(MODEL, ids, max_tokens=answer, ignore_eos=True)
            ]

        return list(await asyncio.gather(*(one(ids) for ids in prompts)))


def write(found: dict[str, list[Compared]], output: Path | None) -> None:
    """Print the tables; write them into docs and the figures beside them, unless another file is given."""
    head = machine.describe()
    result: dict[str, Any] = {"commit": machine.commit(), "machine": head}
    result |= {part: [asdict(one) for one in ones] for part, ones in found.items()}
    note = f"{head['processor']}, {head['cores']} cores, {head['system']}, commit {result['commit']}."
    tables = {part: f"{table(ones, part)}\n\n{summary(ones, part)} {note}" for part, ones in found.items()}
    for part, text in tables.items():
        print(f"\n{part}\n\n{text}")
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        return
    whole = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    RESULT.write_text(json.dumps({**whole, **result}, indent=1) + "\n", encoding="utf-8")
    for part, text in tables.items():
        write_part(PAGE, f"fit-{part}", text)


def table(ones: Sequence[Compared], part: str) -> str:
    """A row a model and precision, a column a figure: predicted / measured, deviation."""
    columns = list(dict.fromkeys(one.what for one in ones))
    units = {"memory": "MiB", "speed": "ms"}[part]
    lines = [f"| model, precision ({units}) | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for model, precision in dict.fromkeys((one.model, one.precision) for one in ones):
        cells = []
        for column in columns:
            one = next(one for one in ones if (one.model, one.precision, one.what) == (model, precision, column))
            cells.append(f"{figure(one.predicted)} / {figure(one.measured)} ({one.deviation:+.0%})")
        lines.append(f"| {model}, {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def summary(ones: Sequence[Compared], part: str) -> str:
    """How many figures are within the bound, and the worst."""
    bound = {"memory": 0.10, "speed": 0.25}[part]
    within = sum(abs(one.deviation) <= bound for one in ones)
    worst = max(ones, key=lambda one: abs(one.deviation))
    return (
        f"Predicted / measured. {within} of {len(ones)} figures are within {bound:.0%}; the worst is {worst.model} in "
        f"{worst.precision}, {worst.what}: {worst.deviation:+.0%}."
    )


if __name__ == "__main__":
    raise SystemExit(main())
