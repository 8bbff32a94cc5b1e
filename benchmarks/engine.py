"""What the served engine promises, in figures: our own server alone, through Triton and gRPC.

    python -m benchmarks.engine                       # all five, about five minutes
    python -m benchmarks.engine leaving share         # some of them
    python -m benchmarks.engine --tiny --output /tmp/here

    leaving    ms from a caller's cancelling until its slot and its part of the cache are free
    prefix     TTFT of a prompt, by how much of its beginning the server has seen before
    share      a decode step of 16 requests through Triton, beside the same engine without it
    queue      tokens/s and memory with ever more requests waiting
    tokenizer  ms that the tokenizer takes for a text of 1,000 tokens

The model is that of ``make bench``: random weights in the shape of SmolLM2-360M, the profile ``throughput``.
"""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.engine_table import table
from benchmarks.page import write_part
from benchmarks.peers import machine
from benchmarks.peers.checkpoint import TINY, ModelShape, text_lines, write_checkpoint
from benchmarks.peers.contenders import CONTENDERS, MODEL, THREADS, Contender, Worker
from benchmarks.peers.rounds import MEMORY_MEASURE
from benchmarks.peers.served import Served, serve_repository
from benchmarks.peers.workers.fathom_worker import answer_jobs
from benchmarks.peers.workers.line_protocol import Answer, Job
from benchmarks.peers.workload import FIRST_TOKEN, Workload

from fathom_client import AsyncClient, metric_names

PAGE: Final = machine.ROOT / "docs" / "performance.md"
RESULTS: Final = machine.ROOT / "benchmarks" / "results"
PROFILE: Final = "throughput"
LEAVERS: Final = 10
POLL_S: Final = 0.001
SHARED_TOKENS: Final = (0, 128, 256, 384, 512, 640)
PROMPT_TOKENS: Final = 704
TRIES: Final = 5
WAITING: Final = (16, 100, 300, 1000)
QUEUE_ANSWERS: Final = 20 * 16
TEXT_TOKENS: Final = 1000

Figures = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Export, serve, measure, write; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--tiny", action="store_true", help="a model that is too small for figures to mean anything")
    parser.add_argument("--cache", type=Path, default=machine.ROOT / ".bench", help="(default: .bench)")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER", help="(default: benchmarks/results)")
    options = parser.parse_args(argv)
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"no part is named {part!r}; there are {', '.join(PARTS)}")
    if options.tiny and options.output == RESULTS:
        parser.error("--tiny measures nothing that belongs among the results; give --output FOLDER")
    shape = TINY if options.tiny else ModelShape()
    cache = options.cache.resolve()
    checkpoint = cache / f"llama-{shape.layers}x{shape.hidden}"
    write_checkpoint(checkpoint, shape)
    contender = next(each for each in CONTENDERS if each.profile == PROFILE)
    print(f"== exporting {shape.layers} layers, {contender.precision}", flush=True)
    repository = Path(contender.prepare(cache, checkpoint)[-2])
    figures: Figures = {}
    for part in options.parts or PARTS:
        print(f"== {part}", flush=True)
        figures[part] = PARTS[part](repository, shape)
        print(json.dumps(figures[part], indent=1), flush=True)
    path = _write(options.output, shape, figures)
    text = table(json.loads(path.read_text(encoding="utf-8")))
    print(f"{text}\nwritten: {path}")
    if options.output == RESULTS:
        write_part(PAGE, "engine", text)
    return 0


def leaving(repository: Path, shape: ModelShape) -> Figures:
    """Cancel in the middle of an answer, and ask the metrics until nothing of it is left."""

    async def measure(served: Served, client: AsyncClient) -> Figures:
        freed = []
        for number in range(LEAVERS):
            stream = client.stream(MODEL, _prompt(shape, number, 128), max_tokens=600, ignore_eos=True)
            tokens = 0
            async for chunk in stream:
                tokens += chunk.num_output_tokens
                if tokens > 16 + number:
                    break
            began = time.perf_counter()
            await _close(stream)
            while served.metric(metric_names.REQUESTS_RUNNING, model=MODEL):
                await asyncio.sleep(POLL_S)
            freed.append(1e3 * (time.perf_counter() - began))
        return {"freed_ms": _spread(freed), "kv_cache_usage_after": served.metric(metric_names.KV_CACHE_USAGE)}

    return _served(repository, measure)


def prefix(repository: Path, shape: ModelShape) -> Figures:
    """Ask with a prompt whose beginning was asked before, and with a new one, in turn."""

    async def measure(served: Served, client: AsyncClient) -> Figures:
        ttfts: dict[int, list[float]] = {shared: [] for shared in SHARED_TOKENS}
        hits = served.metric(metric_names.PREFIX_CACHE_HITS)
        for turn in range(TRIES):
            for shared in SHARED_TOKENS:
                seed = 1000 * turn + shared
                beginning = _prompt(shape, seed, shared)
                for ending in (1, 2):
                    prompt = beginning + _prompt(shape, f"{seed} {ending}", PROMPT_TOKENS - shared)
                    (answer,) = await answer_jobs(client, MODEL, [Job(0.0, prompt, 1)])
                ttfts[shared].append(1e3 * answer.first_s)
        return {
            "prompt_tokens": PROMPT_TOKENS,
            "ttft_ms_by_shared_tokens": {str(shared): _spread(values) for shared, values in ttfts.items()},
            "hit_tokens": served.metric(metric_names.PREFIX_CACHE_HITS) - hits,
        }

    return _served(repository, measure)


def share(repository: Path, shape: ModelShape) -> Figures:
    """The same 16 requests at the served engine and at one in a process without Triton, in turn, both alive.

    ``triton_share`` is of the server's processor time: all threads but the two that compute steps. By the clock the
    client takes its part as well, on the same two cores.
    """
    version = max((repository / MODEL).glob("[0-9]*"), key=lambda folder: int(folder.name))
    commands = {
        "served": ["benchmarks.peers.workers.fathom_worker", str(repository), MODEL],
        "engine": ["benchmarks.peers.workers.engine_worker", str(version)],
    }
    nobody = Contender("Fathom", "int8", "", lambda cache, checkpoint: (), dict)
    log = repository.parent / "share.log"
    workers = {name: Worker(nobody, [sys.executable, "-m", *command], log) for name, command in commands.items()}
    steps: dict[str, list[float]] = {name: [] for name in workers}
    shares = []
    workload = Workload(vocabulary=shape.vocabulary)
    try:
        for worker in workers.values():
            worker.start()
            worker.run(workload.jobs(MEMORY_MEASURE, -1)[0])
        for turn in range(TRIES):
            for name, worker in workers.items():
                worker.run(workload.awakening())
                before = machine.thread_times_s(worker.pid)
                steps[name].append(_step_ms(worker.run(workload.jobs(MEMORY_MEASURE, turn)[0])))
                if name == "served":
                    shares.append(_share_of_others(before, machine.thread_times_s(worker.pid)))
    finally:
        for worker in workers.values():
            worker.stop()
    ratios = [1 - alone / served for served, alone in zip(steps["served"], steps["engine"], strict=True)]
    return {
        "served_step_ms": _spread(steps["served"]),
        "engine_step_ms": _spread(steps["engine"]),
        "triton_share": round(statistics.median(shares), 4),
        "triton_and_client_share_of_step": round(statistics.median(ratios), 4),
    }


def _share_of_others(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Share of the processor time between two readings that all threads but the busiest ``THREADS`` took."""
    spent = sorted(seconds - before.get(thread, 0.0) for thread, seconds in after.items())
    return sum(spent[:-THREADS]) / sum(spent)


def queue(repository: Path, shape: ModelShape) -> Figures:
    """16 requests run and ever more wait, for each that ends another comes; the rate is that of all answers' tokens.

    It counts from when everybody has come and 32 answers have ended, until 20 times 16 more have.
    """

    async def measure(served: Served, client: AsyncClient) -> Figures:
        found = {}
        for waiting in WAITING:
            before, ends = machine.memory(served.pid), list[float]()
            callers = [asyncio.create_task(_ask_on(client, shape, number, ends)) for number in range(16 + waiting)]
            while served.metric(metric_names.REQUESTS_WAITING, model=MODEL) < waiting - 16 or len(ends) < 32:
                await asyncio.sleep(0.2)
            first = len(ends)
            while len(ends) <= first + QUEUE_ANSWERS:
                await asyncio.sleep(0.2)
            seen = served.metric(metric_names.REQUESTS_WAITING, model=MODEL)
            grown = machine.memory(served.pid).rss_mib - before.rss_mib
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            while served.metric(metric_names.REQUESTS_WAITING, model=MODEL):
                await asyncio.sleep(0.1)
            rate = 16 * QUEUE_ANSWERS / (ends[first + QUEUE_ANSWERS] - ends[first])
            found[str(waiting)] = {
                "tokens_per_s": round(rate, 1),
                "waiting": seen,
                "rss_grown_mib": round(grown, 1),
            }
        return {"by_waiting": found}

    return _served(repository, measure)


def tokenizer(repository: Path, shape: ModelShape) -> Figures:
    """The code that the engine calls, in this process, and the tokenizer model's own time in Triton."""
    from fathom_server.text.tokenizer import TextTokenizer

    version = max((repository / MODEL).glob("[0-9]*"), key=lambda folder: int(folder.name))
    text_tokenizer = TextTokenizer.load(version)
    texts = [_text_of(text_tokenizer, seed) for seed in range(100)]
    direct = []
    for text in texts:
        began = time.perf_counter()
        text_tokenizer.encode(text)
        direct.append(1e3 * (time.perf_counter() - began))

    async def measure(served: Served, client: AsyncClient) -> Figures:
        stage = [await asyncio.to_thread(_tokenize, served, text) for text in texts]
        return {"encode_ms": _spread(direct), "stage_ms": _spread(stage), "tokens": TEXT_TOKENS}

    return _served(repository, measure)


async def _ask_on(client: AsyncClient, shape: ModelShape, caller: int, ends: list[float]) -> None:
    """One caller: request after request of 16 + 16 tokens; notes when each ends."""
    for number in itertools.count():
        prompt = _prompt(shape, f"{caller} {number}", 16)
        await client.generate(MODEL, prompt, max_tokens=16, ignore_eos=True)
        ends.append(time.perf_counter())


PARTS: Final[dict[str, Callable[[Path, ModelShape], Figures]]] = {
    part.__name__: part for part in (leaving, prefix, share, queue, tokenizer)
}


def _served(repository: Path, measure: Callable[[Served, AsyncClient], Awaitable[Figures]]) -> Figures:
    async def run(served: Served) -> Figures:
        async with AsyncClient(served.url, timeout=None) as client:
            await client.generate(MODEL, [FIRST_TOKEN] * 16, max_tokens=8, ignore_eos=True)
            return await measure(served, client)

    with serve_repository(repository) as served:
        return asyncio.run(run(served))


async def _close(stream: Any) -> None:
    closing = stream.close()
    if asyncio.iscoroutine(closing):
        await closing


def _prompt(shape: ModelShape, seed: object, tokens: int) -> list[int]:
    source = random.Random(f"engine {seed}")
    return [source.randrange(FIRST_TOKEN, shape.vocabulary) for _ in range(tokens)]


def _step_ms(answers: Sequence[Answer]) -> float:
    """Milliseconds of a step while all decode: from the last one's first token to the first one's last."""
    last = max(answers, key=lambda answer: answer.first_s)
    return 1e3 * (last.last_s - last.first_s) / (last.tokens - 1)


def _text_of(text_tokenizer: Any, seed: int) -> str:
    """A text of exactly so many tokens."""
    ids = text_tokenizer.encode("\n".join(text_lines(seed, 120)))
    for cut in range(TEXT_TOKENS, TEXT_TOKENS + 50):
        text: str = text_tokenizer.tokenizer.decode(ids[:cut], skip_special_tokens=False)
        if len(text_tokenizer.encode(text)) == TEXT_TOKENS:
            return text
    raise RuntimeError(f"no text of {TEXT_TOKENS} tokens was found")


def _tokenize(served: Served, text: str) -> float:
    """Milliseconds that Triton counts for a call of the tokenizer model, the way to its process included."""
    model = f"{MODEL}_tokenizer"
    before = _duration_ns(served, model)
    body = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    url = f"http://127.0.0.1:{served.http_port}/v2/models/{model}/infer"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:  # noqa: S310  (our own server, by HTTP)
        answer.read()
    return (_duration_ns(served, model) - before) / 1e6


def _duration_ns(served: Served, model: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{served.http_port}/v2/models/{model}/stats") as answer:
        stats = json.load(answer)["model_stats"]
    return sum(int(each["inference_stats"]["success"].get("ns", 0)) for each in stats)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def _write(folder: Path, shape: ModelShape, figures: Figures) -> Path:
    """Write the figures; parts that an earlier run of the same day has measured at this commit are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    path = folder / f"engine-{now:%Y-%m-%d}.json"
    head = {"commit": machine.commit(), "machine": machine.describe(), "model": asdict(shape), "profile": PROFILE}
    kept: Figures = {}
    if path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if all(earlier.get(key) == value for key, value in head.items()):
            kept = earlier["figures"]
    versions = machine.versions(("fathom-server", "onnxruntime", "nvidia-pytriton"))
    result = {"date": now.isoformat(timespec="seconds"), **head, "versions": versions, "figures": {**kept, **figures}}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
