"""Speculative decoding: tokens a second of one request with prompt lookup, with a draft model, and without.

    python -m benchmarks.speculation                 # about ten minutes, some more the first time
    python -m benchmarks.speculation --where engine  # a part; the rest of the result's file stays as it is

The example models answer their held-out questions, so drafts come true as often as they do in use: `small` (0.98 M
parameters) drafts for `large` (5.1 M), and for `deep`: `large` again, made to cost what a model of 305 M parameters
does. `deep` has wider projections and further layers whose additional weights add exact zeros, so it says what `large`
says, and a step takes as long as the arithmetic of its size does. Speculation pays by the ratio of the two models'
costs, and 5 M parameters have hardly any to save.

Workloads, one request at a time: `held_out`, questions of each task; `sampled`, the same at temperature 0.8 and top-p
0.9; `asked_again`, each question once more after its answer, so that the answer copies; `long`, a question's answer and
what the model goes on with, 96 tokens in all. Methods take turns on each question, in another order each time, so that
whatever else the machine does meets them all. A figure is the median of the rounds, a ratio the median of the rounds'
ratios to no speculation; the `calmest` ratio is that of the sums of each question's shortest time in all, prompt and
request included, for a machine that others use. Decode time is from an answer's first piece to its last; a server sends
what is ready together, so there the times in all are what counts. Answers are compared token for token.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import machine

from fathom_client import Client
from fathom_server.engine.engine import Engine
from fathom_server.engine.request import Piece
from fathom_server.engine.runner.load import load_runner, served_graph
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineSettings
from fathom_server.engine.speculation.load import load_speculator
from fathom_server.errors import RequestError
from fathom_server.text.tokenizer import TextTokenizer

EXAMPLES: Final = machine.ROOT / "examples" / "models"
RESULT: Final = machine.ROOT / "benchmarks" / "results" / "speculation.json"
METHODS: Final = ("none", "prompt_lookup", "draft")
MODELS: Final = ("large", "deep")
WORKLOADS: Final = ("held_out", "sampled", "asked_again", "long")
DEEP_LAYERS: Final = 24
DEEP_INTERMEDIATE: Final = 16384
LONG_TOKENS: Final = 96
READY_S: Final = 180.0


@dataclass(frozen=True, slots=True)
class Job:
    """One request, and how its answer is chosen."""

    prompt_ids: list[int]
    sampling: SamplingParameters


@dataclass(slots=True)
class Answer:
    """Tokens, and when the first and the last of them came; the first piece may bring several."""

    token_ids: list[int] = field(default_factory=list)
    first_piece: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def add(self, token_ids: Sequence[int]) -> None:
        """Take a piece's tokens."""
        if not token_ids:
            return
        self.last_s = time.perf_counter()
        if not self.token_ids:
            self.first_s, self.first_piece = self.last_s, len(token_ids)
        self.token_ids += token_ids


@dataclass(frozen=True, slots=True)
class Turn:
    """One method's turn on a workload: decode tokens a second, seconds in all, drafted tokens tried and kept.

    Of a server those are not known, and tokens that it sends together have no time between them.
    """

    method: str
    tokens_per_s: float
    seconds: float
    tokens: int
    proposed: int | None
    accepted: int | None


class EngineContender:
    """An engine in this process."""

    def __init__(self, folder: Path) -> None:
        settings = EngineSettings.load(folder)
        self.runner = load_runner(folder, settings)
        self.engine = Engine(self.runner, settings, TextTokenizer.load(folder), load_speculator(folder, settings))
        self.engine.start()

    def answer(self, job: Job) -> Answer:
        """Generate, and wait for the end."""
        sink = _Sink()
        self.engine.submit("job", job.prompt_ids, job.sampling, sink)
        return sink.wait()

    def counts(self) -> tuple[int, int] | None:
        """Drafted tokens tried and kept so far."""
        return self.engine.metrics.draft_tokens, self.engine.metrics.accepted_tokens


class _Sink:
    """Where an engine's answer goes."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.error: RequestError | None = None
        self.ended = threading.Event()

    def on_piece(self, piece: Piece) -> None:
        self.answer.add(piece.token_ids)
        if piece.is_last:
            self.ended.set()

    def on_error(self, error: RequestError) -> None:
        self.error = error
        self.ended.set()

    def wait(self) -> Answer:
        self.ended.wait()
        if self.error is not None:
            raise self.error
        return self.answer


class ServedContender:
    """A model of a server, over gRPC."""

    def __init__(self, client: Client, model: str) -> None:
        self.client, self.model = client, model

    def answer(self, job: Job) -> Answer:
        """Generate, streamed."""
        sampling, answer = job.sampling, Answer()
        options: dict[str, Any] = {"max_tokens": sampling.max_tokens, "ignore_eos": sampling.ignore_eos}
        if sampling.temperature:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        for chunk in self.client.stream(self.model, job.prompt_ids, **options):
            answer.add(chunk.token_ids)
        return answer

    def counts(self) -> tuple[int, int] | None:
        """Not known here."""
        return None


def jobs(workload: str, questions: int) -> list[Job]:
    """A workload: ``questions`` of each of the seven tasks, the same for every method and model."""
    tokenizer = TextTokenizer.load(EXAMPLES / "large")
    rows = [json.loads(line) for line in (EXAMPLES / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]
    tasks = sorted({row["task"] for row in rows})
    chosen = [row for task in tasks for row in [one for one in rows if one["task"] == task][:questions]]
    made = []
    for seed, row in enumerate(chosen):
        messages, sampling = row["messages"], SamplingParameters(max_tokens=64)
        if workload == "sampled":
            sampling = SamplingParameters(max_tokens=64, temperature=0.8, top_p=0.9, seed=seed)
        elif workload == "long":
            sampling = SamplingParameters(max_tokens=LONG_TOKENS, ignore_eos=True)
        elif workload == "asked_again":
            messages = [*messages, {"role": "assistant", "content": row["answer"]}, messages[-1]]
        made.append(Job(tokenizer.encode_messages(messages), sampling))
    return made[::questions] if workload == "long" else made


def write_deep(folder: Path) -> None:
    """`large` with wider projections and further layers whose additional weights add exact zeros."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(EXAMPLES / "large", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    layers, hidden, inner = config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(1)

    def random(rows: int, columns: int) -> "torch.Tensor":
        return (torch.randn(rows, columns, generator=generator) * 0.02).to(torch.bfloat16)

    for layer in range(DEEP_LAYERS):
        own, model = f"model.layers.{layer}.", f"model.layers.{layer % layers}."
        if layer >= layers:
            for name in [name for name in tensors if name.startswith(model)]:
                tensors[own + name.removeprefix(model)] = tensors[name].clone()
            tensors[own + "self_attn.o_proj.weight"].zero_()
            tensors[own + "mlp.down_proj.weight"].zero_()
            if tensors[own + "mlp.up_proj.weight"].shape[0] == DEEP_INTERMEDIATE:
                continue
        more = DEEP_INTERMEDIATE - inner
        zeros = torch.zeros(more, hidden, dtype=torch.bfloat16)
        mlp = {name: tensors[f"{own}mlp.{name}_proj.weight"] for name in ("gate", "up", "down")}
        tensors[own + "mlp.gate_proj.weight"] = torch.cat([mlp["gate"], random(more, hidden)])
        tensors[own + "mlp.up_proj.weight"] = torch.cat([mlp["up"], zeros])
        tensors[own + "mlp.down_proj.weight"] = torch.cat([mlp["down"], zeros.T], dim=1).contiguous()
    config |= {"num_hidden_layers": DEEP_LAYERS, "intermediate_size": DEEP_INTERMEDIATE}
    config["layer_types"] = ["full_attention"] * DEEP_LAYERS
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def prepare(cache: Path, precision: str, *, rebuild: bool) -> Path:
    """The repository of all models and methods, made where it is not there."""
    deep, repository = cache / "deep", cache / f"repository-{precision}"
    if repository.is_dir() and not rebuild:
        return repository
    if not (deep / "model.safetensors").is_file():
        shutil.rmtree(deep, ignore_errors=True)
        deep.parent.mkdir(parents=True, exist_ok=True)
        write_deep(deep)
    tables = [_table("small", EXAMPLES / "small", precision, "")]
    for model in MODELS:
        source = deep if model == "deep" else EXAMPLES / model
        for method in METHODS:
            draft = ', draft = "small"' if method == "draft" else ""
            speculation = f'speculation = {{ method = "{method}"{draft} }}\n'
            tables.append(_table(f"{model}_{method}", source, precision, speculation))
    bundle = cache / f"bundle-{precision}.toml"
    bundle.write_text(f'repository = "{repository.name}"\n' + "".join(tables), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "fathom_export.cli", str(bundle)], check=True)
    return repository


def newest_version(folder: Path) -> Path:
    """The version of a model that a server takes."""
    return max((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def _table(name: str, source: Path, precision: str, more: str) -> str:
    return (
        f'[[models]]\nname = "{name}"\nsource = "{source}"\ntask = "generate"\nprecision = "{precision}"\n'
        f'limits = {{ max_batch = 4, max_context = 1024 }}\nquality = {{ effort = "off" }}\n{more}\n'
    )


def measure(
    contenders: dict[str, EngineContender] | dict[str, ServedContender], work: Sequence[Job], rounds: int
) -> dict[str, Any]:
    """Rounds of all methods in turn; figures, ratios and every turn."""
    turns: list[list[Turn]] = []
    calmest: dict[str, list[float]] = {method: [float("inf")] * len(work) for method in METHODS}
    same = True
    for number in range(rounds + 1):
        answers: dict[str, list[Answer]] = {method: [] for method in METHODS}
        seconds = dict.fromkeys(METHODS, 0.0)
        before = {method: contenders[method].counts() for method in METHODS}
        for place, job in enumerate(work):
            for at in range(len(METHODS)):
                method = METHODS[(number + place + at) % len(METHODS)]
                begin = time.perf_counter()
                answers[method].append(contenders[method].answer(job))
                took = time.perf_counter() - begin
                seconds[method] += took
                if number:
                    calmest[method][place] = min(calmest[method][place], took)
        done = {
            method: _turn(method, answers[method], seconds[method], before[method], contenders[method].counts())
            for method in METHODS
        }
        texts = {method: [answer.token_ids for answer in answers[method]] for method in METHODS}
        same = same and all(texts[method] == texts["none"] for method in METHODS)
        if number:  # the first round warms up: costs and acceptance are learned in it
            turns.append([done[method] for method in METHODS])
    return {
        "tokens_per_s": {
            method: round(statistics.median(turn[at].tokens_per_s for turn in turns), 1)
            for at, method in enumerate(METHODS)
        },
        "ratio": {
            method: round(statistics.median(turn[at].tokens_per_s / turn[0].tokens_per_s for turn in turns), 3)
            for at, method in enumerate(METHODS)
        },
        "ratio_of_calmest": {method: round(sum(calmest["none"]) / sum(calmest[method]), 3) for method in METHODS},
        "ratio_of_seconds_in_all": {
            method: round(statistics.median(turn[0].seconds / turn[at].seconds for turn in turns), 3)
            for at, method in enumerate(METHODS)
        },
        "acceptance": {method: _acceptance([turn[at] for turn in turns]) for at, method in enumerate(METHODS)},
        "tokens": turns[0][0].tokens,
        "same_answers": same,
        "turns": [[asdict(turn) for turn in round_] for round_ in turns],
    }


def _acceptance(turns: Sequence[Turn]) -> float | None:
    proposed = sum(turn.proposed or 0 for turn in turns)
    return round(sum(turn.accepted or 0 for turn in turns) / proposed, 3) if proposed else None


def _turn(
    method: str,
    answers: Sequence[Answer],
    seconds: float,
    before: tuple[int, int] | None,
    after: tuple[int, int] | None,
) -> Turn:
    decoded = sum(len(one.token_ids) - one.first_piece for one in answers)
    decode_s = sum(one.last_s - one.first_s for one in answers)
    proposed, accepted = (
        (None, None) if before is None or after is None else (after[0] - before[0], after[1] - before[1])
    )
    tokens = sum(len(one.token_ids) for one in answers)
    return Turn(method, round(decoded / decode_s, 2), round(seconds, 4), tokens, proposed, accepted)


@contextlib.contextmanager
def serving(repository: Path) -> Iterator[Client]:
    """A server of the repository, and a client of it."""
    with tempfile.TemporaryDirectory(prefix="fathom-speculation-") as folder:
        ports = Path(folder) / "ports.json"
        command = [sys.executable, "-m", "fathom_server.cli", str(repository), "--ports", "auto"]
        command += ["--log-level", "warning", "--ports-file", str(ports)]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + READY_S
            while not ports.exists():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("error: fathom-serve did not become ready")
                time.sleep(0.05)
            with Client(f"127.0.0.1:{json.loads(ports.read_text(encoding='utf-8'))['grpc']}", timeout=None) as client:
                yield client
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()


def run(options: argparse.Namespace) -> None:
    """Measure everything that was asked for, and write each figure when it is there."""
    repository = prepare(options.cache, options.precision, rebuild=options.rebuild)
    results: dict[str, Any] = {}
    work = {workload: jobs(workload, options.questions) for workload in options.workloads}

    def measure_all(where: str, contender_of: Callable[[str], Any]) -> None:
        for model in options.models:
            contenders = {method: contender_of(f"{model}_{method}") for method in METHODS}
            for workload in options.workloads:
                result = measure(contenders, work[workload], options.rounds)
                results.setdefault(where, {}).setdefault(model, {})[workload] = result
                write(options, repository, results)
                print(f"{where:6} {model:5} {workload:12} {_line(result)}", flush=True)
            for contender in contenders.values():
                if isinstance(contender, EngineContender):
                    contender.engine.stop()

    if "engine" in options.where:
        measure_all("engine", lambda name: EngineContender(newest_version(repository / name)))
    if "served" in options.where:
        with serving(repository) as client:
            measure_all("served", lambda name: ServedContender(client, name))


def _line(result: dict[str, Any]) -> str:
    """A workload's figures in words."""
    guessing = METHODS[1:]
    parts = [f"{method} {result['tokens_per_s'][method]:.1f}/s" for method in METHODS]
    parts += [
        f"{name} " + " ".join(f"{result[name][method]:.2f}" for method in guessing)
        for name in ("ratio", "ratio_of_seconds_in_all", "ratio_of_calmest")
    ]
    parts.append("acceptance " + " ".join(str(result["acceptance"][method]) for method in guessing))
    return "  ".join(parts) + ("" if result["same_answers"] else "  ANSWERS DIFFER")


def write(options: argparse.Namespace, repository: Path, results: dict[str, Any]) -> None:
    """Write what was measured; what an earlier run measured and this one did not stays in the file."""
    if options.output.is_file():
        merged = json.loads(options.output.read_text(encoding="utf-8"))["results"]
        for where, models in results.items():
            for model, workloads in models.items():
                merged.setdefault(where, {}).setdefault(model, {}).update(workloads)
        results = merged
    report = {
        "machine": machine.describe(),
        "versions": machine.versions(["onnxruntime", "numpy"]),
        "commit": machine.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "precision": options.precision,
        "graph": served_graph(newest_version(repository / "large_none")),
        "threads": len(os.sched_getaffinity(0)),
        "deep": {"layers": DEEP_LAYERS, "intermediate": DEEP_INTERMEDIATE},
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, measure, write; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speculation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each method (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=4, help="questions of each task (default: %(default)s)")
    parser.add_argument("--precision", default="int8", help="of all models (default: %(default)s)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--where", nargs="+", choices=("engine", "served"), default=["engine", "served"])
    parser.add_argument("--rebuild", action="store_true", help="export the models again where something has changed")
    parser.add_argument("--cache", type=Path, default=machine.ROOT / ".bench" / "speculation")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON to write (default: %(default)s)")
    options = parser.parse_args(argv)
    run(options)
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
