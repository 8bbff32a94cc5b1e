"""What a streamed token costs the caller: this client, sync and async, beside Triton's own, on the same server.

    python -m benchmarks.client                      # about two minutes; rewrites docs/performance.md
    python -m benchmarks.client --rounds 1 --tokens 50 --output /tmp/client.json

64 streams run at once over one real Triton whose model gives every stream a token a step, one response each. Every
contender runs in a process of its own, and they take turns, each round in another order. The figure is the processor
time of the caller's process, threads of gRPC included, per token: the server runs on the same cores, so tokens a second
say more of it than of the caller. A ratio is the median of the rounds' ratios.

    Client, AsyncClient     this client: 64 threads, 64 tasks
    tritonclient            grpc.InferenceServerClient in 64 threads, each with its own, as its one stream allows
    tritonclient shared     one of them, 64 requests on its one stream, answers told apart by request id in its callback
    tritonclient.aio        grpc.aio.InferenceServerClient, one connection, 64 tasks

Triton's own are asked for no more than the text of each response and whether it is the last.
"""

import argparse
import asyncio
import json
import queue
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks.page import write_part
from benchmarks.peers import machine
from benchmarks.peers.served import serve_repository

from fathom_client import AsyncClient, Client

REPOSITORY: Final = machine.ROOT / "benchmarks" / "client_repository"
RESULT: Final = machine.ROOT / "benchmarks" / "results" / "client.json"
PAGE: Final = machine.ROOT / "docs" / "performance.md"
MODEL: Final = "chat"
WARM_TOKENS: Final = 10
PEERS: Final = {
    "Client": ("tritonclient", "tritonclient shared"),
    "AsyncClient": ("tritonclient.aio",),
}
"""Whom a contender is measured against: first the one that is used as it is, a thread or a task a stream; ``--limit``
is for that one. The shared stream has one thread for all, and its user none to wait in."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender's turn: microseconds of processor time a token, and tokens a second."""

    contender: str
    cpu_us: float
    tokens_s: float


def main(argv: Sequence[str] | None = None) -> int:
    """Serve, measure, write; returns the exit status: 1 where a ratio is above ``--limit``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.client", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=64, help="at once (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=200, help="of each stream (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=1.3, help="largest ratio to the peer (default: %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON to write instead of benchmarks/results and docs/performance.md",
    )
    parser.add_argument("--turn", nargs=2, metavar=("CONTENDER", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.turn:
        contender, url = options.turn
        print(json.dumps(asdict(_turn(contender, url, options.streams, options.tokens))))
        return 0
    turns = _measure(options)
    result = _summary(turns, options)
    (options.output or RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _print(result)
    if options.output is None:
        write_page(result)
    return int(any(result["ratios"][f"{name} / {peers[0]}"] > options.limit for name, peers in PEERS.items()))


def _measure(options: argparse.Namespace) -> list[Turn]:
    turns = []
    order = list(CONTENDERS)
    with serve_repository(REPOSITORY) as served:
        for number in range(options.rounds):
            random.Random(number).shuffle(order)
            for contender in order:
                command = [sys.executable, "-m", "benchmarks.client", "--turn", contender, served.url]
                command += ["--streams", str(options.streams), "--tokens", str(options.tokens)]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=machine.ROOT)
                turns.append(Turn(**json.loads(done.stdout)))
                print(f"round {number + 1}: {contender:<20} {turns[-1].cpu_us:6.1f} us/token", flush=True)
    return turns


def _turn(contender: str, url: str, streams: int, tokens: int) -> Turn:
    """Warm up, then read all streams; raises RuntimeError where a token is missing."""
    watch = Watch()
    counts = CONTENDERS[contender](url, streams, tokens, watch)
    if counts != [tokens] * streams:
        raise RuntimeError(f"{contender}: streams of {sorted(set(counts))} tokens instead of {tokens}")
    total = streams * tokens
    return Turn(contender, 1e6 * watch.cpu_s / total, total / watch.wall_s)


class Watch:
    """Time that passes within its ``with`` block: this process's processor time, and the wall clock's."""

    def __init__(self) -> None:
        self.cpu_s = self.wall_s = 0.0

    def __enter__(self) -> None:
        self._begin = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        cpu_s, wall_s = self._begin
        self.cpu_s, self.wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s


def client(url: str, streams: int, tokens: int, watch: Watch) -> list[int]:
    """64 threads on one Client."""
    with Client(url) as opened:

        def read(count: int) -> int:
            with opened.stream(MODEL, "a", max_tokens=count) as stream:
                return sum(chunk.text.startswith("word") for chunk in stream)

        return _in_threads(lambda _: read, streams, tokens, watch)


def async_client(url: str, streams: int, tokens: int, watch: Watch) -> list[int]:
    """64 tasks on one AsyncClient."""

    async def run() -> list[int]:
        async with AsyncClient(url) as opened:

            async def read(count: int) -> int:
                return sum(
                    [chunk.text.startswith("word") async for chunk in opened.stream(MODEL, "a", max_tokens=count)]
                )

            return await _in_tasks(read, streams, tokens, watch)

    return asyncio.run(run())


def tritonclient(url: str, streams: int, tokens: int, watch: Watch) -> list[int]:
    """64 threads, each with a client and its stream."""
    from tritonclient import grpc

    def reader(_: int) -> Callable[[int], int]:
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        opened = grpc.InferenceServerClient(url)
        opened.start_stream(lambda result, error: answers.put((result, error)))

        def read(count: int) -> int:
            opened.async_stream_infer(MODEL, _inputs(grpc, count), enable_empty_final_response=True)
            found = 0
            while True:
                is_text, is_last = _look(*answers.get())
                found += is_text
                if is_last:
                    return found

        return read

    return _in_threads(reader, streams, tokens, watch)


def tritonclient_shared(url: str, streams: int, tokens: int, watch: Watch) -> list[int]:
    """One client, one stream, one callback for 64 requests."""
    from tritonclient import grpc

    found = [0] * streams
    left = threading.Semaphore(0)

    def answer(result: Any, error: Any) -> None:
        is_text, is_last = _look(result, error)
        found[int(result.get_response().id)] += is_text
        if is_last:
            left.release()

    opened = grpc.InferenceServerClient(url)
    opened.start_stream(answer)

    def step(count: int) -> None:
        found[:] = [0] * streams
        for number in range(streams):
            inputs = _inputs(grpc, count)
            opened.async_stream_infer(MODEL, inputs, request_id=str(number), enable_empty_final_response=True)
        for _ in range(streams):
            left.acquire()

    step(WARM_TOKENS)
    with watch:
        step(tokens)
    opened.stop_stream()
    opened.close()
    return found


def tritonclient_aio(url: str, streams: int, tokens: int, watch: Watch) -> list[int]:
    """64 tasks on one asyncio client."""
    from tritonclient.grpc import aio

    async def run() -> list[int]:
        async with aio.InferenceServerClient(url) as opened:

            async def read(count: int) -> int:
                async def requests() -> AsyncIterator[dict[str, Any]]:
                    yield {
                        "model_name": MODEL,
                        "inputs": _inputs(aio, count),
                        "enable_empty_final_response": True,
                    }

                found = 0
                async for result, error in opened.stream_infer(requests()):
                    found += _look(result, error)[0]
                return found

            return await _in_tasks(read, streams, tokens, watch)

    return asyncio.run(run())


CONTENDERS: Final[dict[str, Callable[[str, int, int, Watch], list[int]]]] = {
    "Client": client,
    "AsyncClient": async_client,
    "tritonclient": tritonclient,
    "tritonclient shared": tritonclient_shared,
    "tritonclient.aio": tritonclient_aio,
}


def _in_threads(reader: Callable[[int], Callable[[int], int]], streams: int, tokens: int, watch: Watch) -> list[int]:
    """Read in threads that are ready before the time begins; returns each one's number of texts."""
    counts = [0] * streams
    begin, end = threading.Barrier(streams + 1), threading.Barrier(streams + 1)

    def work(number: int) -> None:
        read = reader(number)
        read(WARM_TOKENS)
        begin.wait()
        counts[number] = read(tokens)
        end.wait()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(streams)]
    for thread in threads:
        thread.start()

    while begin.n_waiting < streams:
        time.sleep(0.01)
    with watch:
        begin.wait()
        end.wait()
    return counts


async def _in_tasks(read: Callable[[int], Any], streams: int, tokens: int, watch: Watch) -> list[int]:
    """Read in tasks; returns each one's number of texts."""
    await asyncio.gather(*(read(WARM_TOKENS) for _ in range(streams)))
    with watch:
        return await asyncio.gather(*(read(tokens) for _ in range(streams)))


def _inputs(module: Any, tokens: int) -> list[Any]:
    text = module.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"a"], dtype=np.object_))
    count = module.InferInput("max_tokens", [1], "INT32")
    count.set_data_from_numpy(np.array([tokens], dtype=np.int32))
    return [text, count]


def _look(result: Any, error: Any) -> tuple[bool, bool]:
    """Whether a response of Triton's own client has text, and whether it is the last."""
    if error is not None:
        raise RuntimeError(str(error))
    texts = result.as_numpy("text_output")
    is_text = texts is not None and texts[0].decode("utf-8").startswith("word")
    return is_text, result.get_response().parameters["triton_final_response"].bool_param


def _summary(turns: Sequence[Turn], options: argparse.Namespace) -> dict[str, Any]:
    by_contender = {name: [turn for turn in turns if turn.contender == name] for name in CONTENDERS}
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "versions": machine.versions(["fathom-client", "tritonclient", "grpcio", "protobuf", "numpy"]),
        "workload": {name: getattr(options, name) for name in ("streams", "tokens", "rounds")},
        "cpu_us_per_token": {
            name: round(statistics.median(turn.cpu_us for turn in own), 1) for name, own in by_contender.items()
        },
        "tokens_s": {
            name: round(statistics.median(turn.tokens_s for turn in own)) for name, own in by_contender.items()
        },
        "ratios": {
            f"{name} / {peer}": _ratio(by_contender[name], by_contender[peer])
            for name, peers in PEERS.items()
            for peer in peers
        },
        "turns": [asdict(turn) for turn in turns],
    }


def _ratio(turns: Sequence[Turn], others: Sequence[Turn]) -> float:
    """The median of the rounds' ratios of processor time."""
    return round(statistics.median(own.cpu_us / other.cpu_us for own, other in zip(turns, others, strict=True)), 2)


def _against(result: dict[str, Any], name: str, times: str) -> str:
    return ", ".join(f"{result['ratios'][f'{name} / {peer}']:.2f} {times} {peer}" for peer in PEERS.get(name, ()))


def write_page(result: dict[str, Any]) -> None:
    """Put a result's table into docs/performance.md."""
    workload, versions = result["workload"], ", ".join(f"{name} {each}" for name, each in result["versions"].items())
    about = (
        f"{workload['streams']} streams at once of {workload['tokens']} tokens; median of {workload['rounds']} rounds. "
        f"{result['machine']['processor']}, {result['machine']['cores']} cores; {versions}; commit {result['commit']}, "
        f"{result['time'][:10]}."
    )
    lines = ["| | CPU µs a token | tokens/s | against |", "|---|---|---|---|"]
    for name, cpu_us in result["cpu_us_per_token"].items():
        lines.append(f"| {name} | {cpu_us:.0f} | {result['tokens_s'][name]} | {_against(result, name, '×')} |")
    write_part(PAGE, "client", "\n".join([about, "", *lines]))


def _print(result: dict[str, Any]) -> None:
    print(f"\n{result['workload']['streams']} streams at once, {result['machine']['processor']}, {result['commit']}")
    print(f"{'':<20} {'us CPU/token':>12} {'tokens/s':>9}  against")
    for name, cpu_us in result["cpu_us_per_token"].items():
        print(f"{name:<20} {cpu_us:>12.1f} {result['tokens_s'][name]:>9}  {_against(result, name, 'x')}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
