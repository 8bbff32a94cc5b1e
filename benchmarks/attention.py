"""Attention of one step, all layers: fathom.Attention beside ONNX Runtime's GroupQueryAttention, in the same run.

    python -m benchmarks.attention                          # about three minutes
    python -m benchmarks.attention --only "decode 16 x 200" --rounds 3

The shape is SmolLM2-360M's. Every layer has a cache of its own, so that a layer's keys and values are cold when their
turn comes, as in a model; a sequence's blocks lie scattered. GroupQueryAttention gets its best settings: shared
buffers, rotary inside, ORT_GQA_DISABLE_FLASH_ATTENTION=1, scale 1, spinning threads. Contenders take turns; a figure is
the median over the rounds of each round's fastest run, a ratio the median of the rounds' ratios.
"""

import argparse
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

os.environ["ORT_GQA_DISABLE_FLASH_ATTENTION"] = "1"

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper

from fathom_server.native.cache_layout import block_bytes
from fathom_server.native.library import DOMAIN, register

ROOT: Final = Path(__file__).resolve().parent.parent
LAYERS: Final = 32
HEADS: Final = 15
KV_HEADS: Final = 5
HEAD_DIM: Final = 64
BLOCK_TOKENS: Final = 32
POSITIONS: Final = 2048
KV_DTYPES: Final = ("int8", "float16", "float32")
PEER: Final = "GroupQueryAttention float32"

Run = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Workload:
    """``rows`` sequences with ``past`` cached tokens get ``new`` ones each; then again, ``calls`` times in all."""

    name: str
    rows: int
    past: int
    new: int
    calls: int = 1


WORKLOADS: Final = (
    Workload("decode 1 x 200", 1, 200, 1),
    Workload("decode 1 x 1000", 1, 1000, 1),
    Workload("decode 16 x 200", 16, 200, 1),
    Workload("decode 16 x 1000", 16, 1000, 1),
    Workload("verify 1 x 200, 5 tokens", 1, 200, 5),
    Workload("prefill 512", 1, 0, 512),
    Workload("prefill 4 x 128", 1, 0, 128, 4),
    Workload("prefill 2048 in 128", 1, 0, 128, 16),
)


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--turn-s", type=float, default=0.4, help="length of a turn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--only", action="append", choices=[workload.name for workload in WORKLOADS])
    arguments = parser.parse_args()
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    print(f"{processor()}, {arguments.threads} threads, onnxruntime {ort.__version__}, commit {commit}")
    print(f"{LAYERS} layers, {HEADS}/{KV_HEADS} heads of {HEAD_DIM}, blocks of {BLOCK_TOKENS}; ms for all layers\n")
    names = [*(f"fathom {dtype}" for dtype in KV_DTYPES), PEER]
    print(f"| workload | {' | '.join(names)} | peer / int8 |")
    print("|---" * (len(names) + 2) + "|")
    for workload in WORKLOADS:
        if arguments.only and workload.name not in arguments.only:
            continue
        runs: list[Run] = [fathom_run(workload, dtype, arguments.threads) for dtype in KV_DTYPES]
        runs.append(peer_run(workload, arguments.threads))
        for run in runs:
            run()
        times = [turns(run, arguments.turn_s) for _ in range(arguments.rounds) for run in runs]
        columns = [times[at :: len(runs)] for at in range(len(runs))]
        figures = " | ".join(f"{1e3 * statistics.median(column):.2f}" for column in columns)
        ratio = statistics.median(peer / ours for ours, peer in zip(columns[0], columns[-1], strict=True))
        print(f"| {workload.name} | {figures} | {ratio:.1f} |", flush=True)
    return 0


def turns(run: Run, turn_s: float) -> float:
    """Seconds of the fastest run within a turn."""
    fastest = float("inf")
    end = time.perf_counter() + turn_s
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def fathom_run(workload: Workload, kv_dtype: str, threads: int) -> Run:
    """A run of one graph of all layers over a paged cache, its sequences' pasts written by the operator itself."""
    width = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    inputs = ["qkv", "kv_cache", "row_starts", "past_lengths", "block_tables", "cosines", "sines"]
    nodes = [
        helper.make_node(
            "Attention",
            inputs,
            [f"context.{layer}"],
            domain=DOMAIN,
            layer=layer,
            heads=HEADS,
            kv_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            block_tokens=BLOCK_TOKENS,
            kv_dtype=kv_dtype,
        )
        for layer in range(LAYERS)
    ]
    kinds = [TensorProto.FLOAT, TensorProto.UINT8, *[TensorProto.INT32] * 3, *[TensorProto.FLOAT] * 2]
    session = make_session(nodes, dict(zip(inputs, kinds, strict=True)), threads)
    per_row = -(-(workload.past + workload.new * workload.calls) // BLOCK_TOKENS)
    blocks = workload.rows * per_row
    cache = aligned_zeros((LAYERS, blocks, block_bytes(KV_HEADS, HEAD_DIM, BLOCK_TOKENS, kv_dtype)))
    random = np.random.default_rng(0)
    tables = random.permutation(blocks).astype(np.int32).reshape(workload.rows, per_row)
    cosines, sines = rotary()

    def step(past: int, new: int) -> Run:
        qkv = random.normal(size=(workload.rows * new, width)).astype(np.float32) * 0.35
        starts = np.arange(workload.rows + 1, dtype=np.int32) * new
        pasts = np.full(workload.rows, past, np.int32)
        values = (qkv, cache, starts, pasts, tables, cosines, sines)
        return bound(session, dict(zip(inputs, values, strict=True)), {})

    if workload.past:
        step(0, workload.past)()
    calls = [step(workload.past + workload.new * call, workload.new) for call in range(workload.calls)]
    return in_turn(calls)


def peer_run(workload: Workload, threads: int) -> Run:
    """The same of ONNX Runtime: keys and values of each layer in a tensor of their own, written in place."""
    width = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    nodes, kinds = [], {"qkv": TensorProto.FLOAT, "seqlens_k": TensorProto.INT32, "total": TensorProto.INT32}
    for layer in range(LAYERS):
        past = [f"past.{layer}.key", f"past.{layer}.value"]
        kinds |= dict.fromkeys(past, TensorProto.FLOAT)
        nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                ["qkv", "", "", *past, "seqlens_k", "total", "cosines", "sines"],
                [f"context.{layer}", f"present.{layer}.key", f"present.{layer}.value"],
                domain="com.microsoft",
                num_heads=HEADS,
                kv_num_heads=KV_HEADS,
                scale=1.0,
                do_rotary=1,
            )
        )
    kinds |= {"cosines": TensorProto.FLOAT, "sines": TensorProto.FLOAT}
    session = make_session(nodes, kinds, threads)
    length = workload.past + workload.new * workload.calls
    random = np.random.default_rng(0)
    caches: dict[str, npt.NDArray[Any]] = {}
    for layer in range(LAYERS):
        for part in ("key", "value"):
            cache = aligned_zeros((workload.rows, KV_HEADS, length, HEAD_DIM * 4)).view(np.float32)
            cache[:] = random.normal(size=cache.shape[1:]).astype(np.float32)
            caches[f"{layer}.{part}"] = cache
    cosines, sines = rotary()

    def step(past: int, new: int) -> Run:
        values: dict[str, npt.NDArray[Any]] = {
            "qkv": random.normal(size=(workload.rows, new, width)).astype(np.float32) * 0.35,
            "seqlens_k": np.full(workload.rows, past + new - 1, np.int32),
            "total": np.array(past + new, np.int32),
            "cosines": cosines,
            "sines": sines,
        }
        values |= {f"past.{name}": cache for name, cache in caches.items()}
        return bound(session, values, {f"present.{name}": cache for name, cache in caches.items()})

    calls = [step(workload.past + workload.new * call, workload.new) for call in range(workload.calls)]
    return in_turn(calls)


def bound(
    session: ort.InferenceSession, inputs: dict[str, npt.NDArray[Any]], outputs: dict[str, npt.NDArray[Any]]
) -> Run:
    """A run over these arrays in place; the contexts go where the session likes."""
    binding = session.io_binding()
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in (inputs | outputs).items()}
    for name in inputs:
        binding.bind_ortvalue_input(name, values[name])
    for name in outputs:
        binding.bind_ortvalue_output(name, values[name])
    for layer in range(LAYERS):
        binding.bind_output(f"context.{layer}")

    def run(_alive: object = (inputs, outputs, values)) -> None:
        session.run_with_iobinding(binding)

    return run


def in_turn(calls: list[Run]) -> Run:
    """A run of these one after another."""

    def run() -> None:
        for call in calls:
            call()

    return run


def make_session(nodes: list[Any], kinds: dict[str, int], threads: int) -> ort.InferenceSession:
    """A session of these nodes, whose outputs are all the graph's."""
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for node in nodes for name in node.output],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if not register(options):
        raise SystemExit("error: the operator library does not load; run python -m fathom_server.native.build")
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def aligned_zeros(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Zeros from a cache line's start on."""
    count = int(np.prod(shape))
    memory = np.zeros(count + 64, np.uint8)
    offset = -memory.ctypes.data % 64
    return memory[offset : offset + count].reshape(shape)


def rotary() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines and sines, [positions, head_dim / 2]."""
    angles = np.arange(POSITIONS)[:, None] * 10000.0 ** (-np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    raise SystemExit(main())
