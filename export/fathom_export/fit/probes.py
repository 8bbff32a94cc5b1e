"""Probes of a machine: the very kernels that serve, on random weights, and the engine itself on a model of nothing."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper

from fathom_export.errors import FitError
from fathom_server.native.cache_layout import block_bytes
from fathom_server.native.library import DOMAIN, register
from fathom_server.sizing.form import NATIVE_BLOCK_TOKENS, EngineForm
from fathom_server.sizing.roofline import AttentionRates, Curve, ProductRates
from fathom_server.sizing.shape import Precision, Product

MIB: Final = 1 << 20
MICROSOFT: Final = "com.microsoft"
ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
WORKING_SETS: Final = (4 * MIB, 24 * MIB, 128 * MIB)
"""Within the cores' own caches, within what they share, and beyond: of many processors, not of each."""
_SIZE: Final = 768
"""Rows and columns of a probe's matrix."""
_HEAD_DIM: Final = 64
_LAYERS: Final = 8
_CONTEXT: Final = 512
_CHUNK: Final = 128
_SEQUENCES: Final = 8
_OPSETS: Final = (("", 21), (DOMAIN, 1), (MICROSOFT, 1))

Run = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a probe is repeated: at least ``least`` times, then until ``budget_s`` seconds are over."""

    least: int = 5
    budget_s: float = 0.25


def median_s(run: Run, effort: Effort) -> float:
    """The median of a run's seconds, after one that does not count."""
    run()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < effort.least or time.perf_counter() - began < effort.budget_s:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@dataclass(frozen=True, slots=True)
class ProductProbe:
    """Matrices of one precision, one behind the other, ``size_bytes`` of them together."""

    session: ort.InferenceSession
    weights: int
    size_bytes: int

    @classmethod
    def of(cls, precision: Precision, size: int, block_size: int) -> "ProductProbe":
        """As many as have about this size together; ``block_size`` is int4's."""
        form = EngineForm(precision, "stock" if precision == "fp32" else "native", block_size=block_size)
        each = form.product_bytes(Product("probe", _SIZE, _SIZE))
        count = max(1, size // each)
        return cls(_product_session(precision, count, block_size), count * _SIZE * _SIZE, count * each)

    def run(self, rows: int) -> Run:
        """A run over so many rows of activations."""
        x = np.random.default_rng(rows).standard_normal((rows, _SIZE)).astype(np.float32)
        return lambda: self.session.run(None, {"x": x})


def read_bytes_per_s(effort: Effort) -> float:
    """Bytes a second that products of one row read with all threads, from matrices too many for any cache."""
    probe = ProductProbe.of("int8", 256 * MIB, 0)
    return probe.size_bytes / median_s(probe.run(1), effort)


def product_rates(precision: Precision, block_size: int, effort: Effort) -> ProductRates:
    """Seconds a weight by rows, at each working set."""
    curves = []
    for size in WORKING_SETS:
        probe = ProductProbe.of(precision, size, block_size)
        seconds = tuple(median_s(probe.run(rows), effort) / probe.weights for rows in ROWS)
        curves.append(Curve(tuple(map(float, ROWS)), seconds))
    return ProductRates(tuple(map(float, WORKING_SETS)), tuple(curves))


def attention_rates(kv_dtype: str, effort: Effort) -> AttentionRates:
    """Seconds a byte of cache and an operation in decode, an operation in a chunk of a prompt.

    Decode is timed with as many query heads as key heads, and with four times as many, which read the same bytes: bytes
    and operations follow from both.
    """
    kv_heads, wide = 4, 4
    times = [_attention_s(kv_dtype, kv_heads * group, kv_heads, _SEQUENCES, _CONTEXT, 1, effort) for group in (1, wide)]
    rows_seen = _SEQUENCES * (_CONTEXT + 1)
    operations = 4 * rows_seen * _LAYERS * kv_heads * _HEAD_DIM
    item = block_bytes(kv_heads, _HEAD_DIM, NATIVE_BLOCK_TOKENS, kv_dtype) / NATIVE_BLOCK_TOKENS
    size = rows_seen * _LAYERS * item
    per_operation = max(0.0, (times[1] - times[0]) / (operations * (wide - 1)))
    per_byte = max(0.0, times[0] - per_operation * operations) / size
    heads = kv_heads * 2
    chunk_s = _attention_s(kv_dtype, heads, kv_heads, 1, _CONTEXT, _CHUNK, effort)
    chunk_operations = 4 * _CHUNK * (_CONTEXT + (_CHUNK + 1) / 2) * _LAYERS * heads * _HEAD_DIM
    return AttentionRates(per_byte, per_operation, chunk_s / chunk_operations)


def threads() -> int:
    """Threads of a probe, as of an engine: every core that this process may use."""
    return len(os.sched_getaffinity(0))


def _product_session(precision: Precision, count: int, block_size: int) -> ort.InferenceSession:
    random, nodes, weights, value = np.random.default_rng(0), [], [], "x"

    def give(name: str, array: npt.NDArray[Any]) -> str:
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        weights.append(helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True))
        return name

    blocks = -(-_SIZE // max(1, block_size))
    for number in range(count):
        output = f"y.{number}"
        if precision == "fp32":
            matrix = random.standard_normal((_SIZE, _SIZE), np.float32) / np.float32(_SIZE**0.5)
            nodes.append(helper.make_node("MatMul", [value, give(f"w.{number}", matrix)], [output]))
        else:
            bits, block = (8, 0) if precision == "int8" else (4, block_size)
            shape = (_SIZE, _SIZE) if block == 0 else (_SIZE, blocks, block * bits // 8)
            codes = random.integers(-127, 128, shape, np.int8)
            scales = np.full((_SIZE,) if block == 0 else (_SIZE, blocks), 5e-4 if block == 0 else 8e-3, np.float32)
            weight = give(f"w.{number}", codes if block == 0 else codes.view(np.uint8))
            places = [value, "", "", weight, give(f"s.{number}", scales)]
            nodes.append(
                helper.make_node(
                    "Linear", places, [output], domain=DOMAIN, K=_SIZE, N=_SIZE, bits=bits, block_size=block
                )
            )
        value = output
    return _session(nodes, {"x": TensorProto.FLOAT}, [value], weights)


def _attention_s(
    kv_dtype: str, heads: int, kv_heads: int, sequences: int, past: int, new: int, effort: Effort
) -> float:
    """Seconds of all layers' attention over pasts of zeros."""
    if kv_dtype == "float32":
        run = _stock_attention(heads, kv_heads, sequences, past, new)
    else:
        run = _native_attention(kv_dtype, heads, kv_heads, sequences, past, new)
    return median_s(run, effort)


def _native_attention(kv_dtype: str, heads: int, kv_heads: int, sequences: int, past: int, new: int) -> Run:
    inputs = ["qkv", "kv_cache", "row_starts", "past_lengths", "block_tables"]
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": _HEAD_DIM, "block_tokens": NATIVE_BLOCK_TOKENS}
    nodes = [
        helper.make_node(
            "Attention", inputs, [f"context.{layer}"], domain=DOMAIN, layer=layer, kv_dtype=kv_dtype, **sizes
        )
        for layer in range(_LAYERS)
    ]
    kinds = [TensorProto.FLOAT, TensorProto.UINT8, *[TensorProto.INT32] * 3]
    session = _session(nodes, dict(zip(inputs, kinds, strict=True)), [node.output[0] for node in nodes], [])
    each = -(-(past + new) // NATIVE_BLOCK_TOKENS)
    cache = np.zeros(
        (_LAYERS, sequences * each, block_bytes(kv_heads, _HEAD_DIM, NATIVE_BLOCK_TOKENS, kv_dtype)), np.uint8
    )
    feeds: dict[str, npt.NDArray[Any]] = {
        "qkv": _queries(heads, kv_heads, (sequences * new,)),
        "kv_cache": cache,
        "row_starts": np.arange(sequences + 1, dtype=np.int32) * np.int32(new),
        "past_lengths": np.full(sequences, past, np.int32),
        "block_tables": np.arange(sequences * each, dtype=np.int32).reshape(sequences, each),
    }
    return _bound(session, feeds, {})


def _stock_attention(heads: int, kv_heads: int, sequences: int, past: int, new: int) -> Run:
    nodes, kinds = [], {"qkv": TensorProto.FLOAT, "seqlens_k": TensorProto.INT32, "total": TensorProto.INT32}
    kept: dict[str, npt.NDArray[Any]] = {}
    for layer in range(_LAYERS):
        places = [f"past.{layer}.key", f"past.{layer}.value"]
        presents = [f"present.{layer}.key", f"present.{layer}.value"]
        kinds |= dict.fromkeys(places, TensorProto.FLOAT)
        nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                ["qkv", "", "", *places, "seqlens_k", "total"],
                [f"context.{layer}", *presents],
                domain=MICROSOFT,
                num_heads=heads,
                kv_num_heads=kv_heads,
                scale=1.0,
            )
        )
        shape = (sequences, kv_heads, past + new, _HEAD_DIM)
        kept |= {name: np.ones(shape, np.float32) for name in presents}
    outputs = [name for node in nodes for name in node.output]
    session = _session(nodes, kinds, outputs, [])
    feeds: dict[str, npt.NDArray[Any]] = {
        "qkv": _queries(heads, kv_heads, (sequences, new)),
        "seqlens_k": np.full(sequences, past + new - 1, np.int32),
        "total": np.array(past + new, np.int32),
        **{name.replace("present", "past"): array for name, array in kept.items()},
    }
    return _bound(session, feeds, kept)


def _queries(heads: int, kv_heads: int, rows: tuple[int, ...]) -> npt.NDArray[np.float32]:
    width = (heads + 2 * kv_heads) * _HEAD_DIM
    return np.random.default_rng(0).standard_normal((*rows, width)).astype(np.float32) * np.float32(0.1)


def _bound(
    session: ort.InferenceSession, feeds: dict[str, npt.NDArray[Any]], outputs: dict[str, npt.NDArray[Any]]
) -> Run:
    """A run over these arrays in place."""
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    for output in session.get_outputs():
        if output.name in outputs:
            array = outputs[output.name]
            binding.bind_output(output.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        else:
            binding.bind_output(output.name)

    def run(_alive: object = (feeds, outputs)) -> None:
        session.run_with_iobinding(binding)

    return run


def _session(
    nodes: Sequence[Any], inputs: dict[str, int], outputs: Sequence[str], weights: Sequence[Any]
) -> ort.InferenceSession:
    """A session with the engine's options."""
    graph = helper.make_graph(
        list(nodes),
        "probe",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(weights),
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not register(options):
        raise FitError(
            "Fathom's operators are not built here or turned off, and a calibration is of them; run "
            "python -m fathom_server.native.build, and unset FATHOM_NATIVE"
        )
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
