"""``fathom.Attention`` in a session of its own, and the same computed in float64."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper

from fathom_server.native.cache_layout import block_bytes
from fathom_server.native.library import DOMAIN, ISA, register

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@cache
def rotary_tables(half: int, positions: int) -> tuple[Floats, Floats]:
    """Cosines and sines, [positions, half]."""
    angles = np.arange(positions)[:, None] * 10000.0 ** (-np.arange(half) / max(1, half))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Shape:
    """A node's attributes, and which of its optional inputs are there."""

    heads: int = 3
    kv_heads: int = 1
    head_dim: int = 64
    kv_dtype: str = "int8"
    block_tokens: int = 32
    scale: float = 0.125
    window: int = 0
    softcap: float = 0.0
    epsilon: float = 1e-6
    rotary: int = 0  # dimensions that turn
    norms: bool = False
    layer: int = 0
    positions: int = 4096

    def __str__(self) -> str:
        """What differs from the default, for tests' names."""
        return ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default)

    @property
    def width(self) -> int:
        """Numbers of one token in ``qkv``."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return block_bytes(self.kv_heads, self.head_dim, self.block_tokens, self.kv_dtype)

    def tables(self) -> tuple[Floats, Floats]:
        """Cosines and sines, [positions, rotary / 2]."""
        return rotary_tables(self.rotary // 2, self.positions)

    def norm_weights(self) -> tuple[Floats, Floats]:
        """Weights of the query's and the key's norm, [head_dim]."""
        random = np.random.default_rng(7)
        weights = random.uniform(0.5, 1.5, (2, self.head_dim)).astype(np.float32)
        return weights[0], weights[1]


def model(shape: Shape, **attributes: Any) -> bytes:
    """A graph of one Attention node; ``attributes`` replace the shape's, and None leaves one out."""
    given: dict[str, Any] = {
        "layer": shape.layer,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "block_tokens": shape.block_tokens,
        "scale": shape.scale,
        "window": shape.window,
        "softcap": shape.softcap,
        "epsilon": shape.epsilon,
        "kv_dtype": shape.kv_dtype,
    } | attributes
    names = ["qkv", "kv_cache", "row_starts", "past_lengths", "block_tables"]
    types = [TensorProto.FLOAT, TensorProto.UINT8, *[TensorProto.INT32] * 3]
    names += ["cosines", "sines"] if shape.rotary else ["", ""]
    names += ["q_norm", "k_norm"] if shape.norms else ["", ""]
    types += [TensorProto.FLOAT] * 4
    node = helper.make_node(
        "Attention", names, ["context"], domain=DOMAIN, **{k: v for k, v in given.items() if v is not None}
    )
    inputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(names, types, strict=True) if name]
    output = helper.make_tensor_value_info("context", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "attention", inputs, [output])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return made


@contextmanager
def isa_level(level: str | None) -> Iterator[None]:
    """Kernels made inside use these instructions; None: the processor's best."""
    before = os.environ.pop(ISA, None)
    if level:
        os.environ[ISA] = level
    try:
        yield
    finally:
        os.environ.pop(ISA, None)
        if before:
            os.environ[ISA] = before


def session(shape: Shape, *, isa: str | None = None, threads: int = 2, **attributes: Any) -> ort.InferenceSession:
    """A session of ``model(shape)``."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not register(options):
        raise RuntimeError("the operator library does not load; run python -m fathom_server.native.build")
    with isa_level(isa):
        return ort.InferenceSession(model(shape, **attributes), options, providers=["CPUExecutionProvider"])


@dataclass(slots=True)
class Sequences:
    """Sequences in a paged cache: each call computes some next tokens of some of them."""

    shape: Shape
    session: ort.InferenceSession
    blocks: int = 64
    layers: int = 1
    cache: npt.NDArray[np.uint8] = field(init=False)
    lengths: dict[int, int] = field(default_factory=dict)
    block_lists: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """An empty cache, full of rubbish that nobody may read."""
        size = (self.layers, self.blocks, self.shape.block_bytes)
        self.cache = np.full(size, 0xFF, np.uint8)

    def place(self, sequence: int, blocks: Iterable[int], past: int = 0) -> None:
        """Give a sequence its blocks, of which ``past`` tokens are there already."""
        self.block_lists[sequence] = list(blocks)
        self.lengths[sequence] = past

    def step(self, rows: Sequence[tuple[int, Floats]]) -> list[Floats]:
        """Compute each (sequence, qkv of its next tokens); returns each one's context."""
        width = max((len(self.block_lists[sequence]) for sequence, _ in rows), default=1)
        tables = np.full((len(rows), width), -1, np.int32)
        for row, (sequence, _) in enumerate(rows):
            tables[row, : len(self.block_lists[sequence])] = self.block_lists[sequence]
        starts = np.cumsum([0, *(len(qkv) for _, qkv in rows)]).astype(np.int32)
        past = np.array([self.lengths[sequence] for sequence, _ in rows], np.int32)
        qkv = np.concatenate([qkv for _, qkv in rows]) if rows else np.zeros((0, self.shape.width), np.float32)
        context = self.session.run(None, feeds(self.shape, qkv, self.cache, starts, past, tables))[0]
        for sequence, part in rows:
            self.lengths[sequence] += len(part)
        return [context[starts[row] : starts[row + 1]] for row in range(len(rows))]


def feeds(
    shape: Shape,
    qkv: Floats,
    cache: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int32],
    past: npt.NDArray[np.int32],
    tables: npt.NDArray[np.int32],
) -> dict[str, npt.NDArray[Any]]:
    """The inputs of a session by name."""
    given: dict[str, npt.NDArray[Any]] = {
        "qkv": qkv,
        "kv_cache": cache,
        "row_starts": starts,
        "past_lengths": past,
        "block_tables": tables,
    }
    if shape.rotary:
        given["cosines"], given["sines"] = shape.tables()
    if shape.norms:
        given["q_norm"], given["k_norm"] = shape.norm_weights()
    return given


def reference(shape: Shape, qkv: Floats) -> Doubles:
    """The context of a whole sequence of tokens, [tokens, heads * head_dim], in float64 and without quantising."""
    tokens, dim = len(qkv), shape.head_dim
    parts = qkv.astype(np.float64).reshape(tokens, -1, dim)
    query, key, value = np.split(parts, [shape.heads, shape.heads + shape.kv_heads], axis=1)
    if shape.norms:
        query_weight, key_weight = shape.norm_weights()
        query = query / np.sqrt((query**2).mean(-1, keepdims=True) + shape.epsilon) * query_weight
        key = key / np.sqrt((key**2).mean(-1, keepdims=True) + shape.epsilon) * key_weight
    if shape.rotary:
        query, key = rotate(shape, query), rotate(shape, key)
    group = shape.heads // shape.kv_heads
    scores = np.einsum("qhd,khd->hqk", query, np.repeat(key, group, axis=1)) * shape.scale
    if shape.softcap:
        scores = np.tanh(scores / shape.softcap) * shape.softcap
    distance = np.arange(tokens)[:, None] - np.arange(tokens)
    hidden = (distance < 0) | ((distance >= shape.window) if shape.window else False)
    scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    context: Doubles = np.einsum("hqk,khd->qhd", weights, np.repeat(value, group, axis=1)).reshape(tokens, -1)
    return context


def hadamard(x: Doubles) -> Doubles:
    """``x`` [n] turned by Hadamard's matrix, unscaled, in runs of the largest power of two that divides n."""
    run = len(x) & -len(x)
    matrix = np.ones((1, 1))
    while len(matrix) < run:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    turned: Doubles = (x.reshape(-1, run) @ matrix).reshape(-1)
    return turned


def rotate(shape: Shape, x: Doubles) -> Doubles:
    """Half-split rotation of the first ``rotary`` dimensions; ``x`` is [tokens, heads, head_dim]."""
    cosines, sines = (table[: len(x), None, :].astype(np.float64) for table in shape.tables())
    half = shape.rotary // 2
    a, b = x[..., :half], x[..., half : 2 * half]
    return np.concatenate([a * cosines - b * sines, b * cosines + a * sines, x[..., 2 * half :]], axis=-1)


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """The smallest cosine of rows of ``a`` and ``b``."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(((a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))).min())
