"""One node of the operator Linear: its graph, its inputs, and what numpy makes of them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fathom_server.native.library import ISA, register

Array = NDArray[Any]
LEVELS = ("generic", "avx2", "avxvnni", "avx512vnni")
EPSILON = 1e-5


@dataclass(frozen=True)
class Matrix:
    """A quantised matrix as the graph holds it, and its codes less their zero points, int32 [K, N]."""

    codes: Array
    scales: Array
    zero_points: Array | None
    steps: Array


@dataclass(frozen=True)
class Case:
    """One node and its tensors."""

    K: int
    N: int
    bits: int = 8
    block: int = 0
    zero_points: bool = False
    bias: bool = False
    norm: bool = False
    delta: bool = False
    residual: bool = False
    gated: bool = False
    activation: str = "none"
    seed: int = 0

    def matrix(self, name: str) -> Matrix:
        rng = np.random.default_rng([self.seed, *name.encode()])
        k, n, block = self.K, self.N, self.block
        if block == 0:
            codes = rng.integers(-128, 128, (k, n)).astype(np.int8)
            return Matrix(codes, rng.uniform(0.5e-3, 1.5e-3, n).astype(np.float32), None, codes.astype(np.int32))
        blocks = -(-k // block)
        values = rng.integers(0, 1 << self.bits, (n, blocks, block))
        zeros = rng.integers(0, 1 << self.bits, (n, blocks)) if self.zero_points else None
        scales = rng.uniform(0.5e-3, 1.5e-3, (n, blocks)).astype(np.float32)
        middle = np.full((n, blocks), 1 << (self.bits - 1)) if zeros is None else zeros
        steps = (values - middle[:, :, None]).reshape(n, -1)[:, :k].T.astype(np.int32)
        packed_zeros = None if zeros is None else pack(zeros, self.bits)
        return Matrix(pack(values, self.bits), scales, packed_zeros, steps)

    def vector(self, name: str, length: int) -> Array:
        return np.random.default_rng([self.seed, *name.encode()]).standard_normal(length).astype(np.float32)


def pack(values: Array, bits: int) -> Array:
    """Codes as bytes, two 4-bit ones to a byte, the first in the low half."""
    if bits == 8:
        return values.astype(np.uint8)
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), values.dtype)], axis=-1)
    return (values[..., 0::2] | values[..., 1::2] << 4).astype(np.uint8)


def model(case: Case, **overrides: Any) -> bytes:
    """A graph of one node; ``overrides`` replace attributes (None leaves one out)."""
    initializers: list[Any] = []

    def give(name: str, value: Array | None) -> str:
        if value is None:
            return ""
        initializers.append(onnx.numpy_helper.from_array(value, name))
        return name

    def matrix(prefix: str) -> list[str]:
        made = case.matrix(prefix)
        bias = case.vector(f"{prefix}_bias", case.N) if case.bias else None
        return [
            give(f"{prefix}_codes", made.codes),
            give(f"{prefix}_scales", made.scales),
            give(f"{prefix}_zeros", made.zero_points),
            give(f"{prefix}_bias", bias),
        ]

    inputs = ["x", "delta" if case.delta else "", give("norm", case.vector("norm", case.K) if case.norm else None)]
    inputs += matrix("weight")
    if case.gated:
        inputs += matrix("up")
    while not inputs[-1]:
        inputs.pop()
    attributes = {
        "K": case.K,
        "N": case.N,
        "bits": case.bits,
        "block_size": case.block,
        "epsilon": EPSILON,
        "activation": case.activation,
        **overrides,
    }
    outputs = ["y", "residual"] if case.residual else ["y"]
    node = helper.make_node(
        "Linear",
        inputs,
        outputs,
        domain="fathom",
        name="the.node",
        **{k: v for k, v in attributes.items() if v is not None},
    )
    values = [("x", case.K)] + ([("delta", case.K)] if case.delta else [])
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name, _ in values],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("fathom", 1)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return content


def session(content: bytes, threads: int = 2) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    assert register(options)
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(made: ort.InferenceSession, *inputs: Array) -> list[Array]:
    names = [each.name for each in made.get_inputs()]
    results: list[Array] = made.run(None, dict(zip(names, inputs, strict=True)))
    return results


def rows_of(case: Case, count: int, seed: int = 1) -> list[Array]:
    """x, and delta where the case has one; a few rows of other magnitudes among them."""
    rng = np.random.default_rng([case.seed, seed])
    inputs = [rng.standard_normal((count, case.K)).astype(np.float32) for _ in range(2 if case.delta else 1)]
    inputs[0] *= np.float32(10.0) ** rng.integers(-3, 3, (count, 1)).astype(np.float32)
    return inputs


def reference(case: Case, x: Array, delta: Array | None = None) -> tuple[Array, Array]:
    """The same arithmetic in numpy: y and residual. Integer sums are exact; float sums are taken in float64."""
    total = x if delta is None else x + delta
    rows = total
    if case.norm:
        squares = np.mean(np.square(total.astype(np.float64)), axis=1, keepdims=True).astype(np.float32)
        rows = total * (np.float32(1) / np.sqrt(squares + np.float32(EPSILON))) * case.vector("norm", case.K)
    size = case.block or case.K
    blocks = -(-case.K // size)
    padded = np.zeros((len(rows), blocks * size), np.float32)
    padded[:, : case.K] = rows
    pieces = padded.reshape(len(rows), blocks, size)
    scales = np.maximum(np.abs(pieces).max(axis=2, initial=0), np.float32(1e-30)) * np.float32(1 / 127)
    codes = np.rint(pieces / scales[:, :, None]).astype(np.int64)

    def product(name: str) -> Array:
        matrix = case.matrix(name)
        steps = np.zeros((blocks * size, case.N), np.int64)
        steps[: case.K] = matrix.steps
        sums = np.einsum("tbk,bkn->tbn", codes, steps.reshape(blocks, size, case.N))
        column_scales = matrix.scales.reshape(case.N, blocks).T
        values = (sums.astype(np.float64) * scales[:, :, None] * column_scales).sum(axis=1)
        if case.bias:
            values = values + case.vector(f"{name}_bias", case.N)
        return values

    y = activated(case.activation, product("weight"))
    if case.gated:
        y = y * product("up")
    return y, total


def activated(name: str, x: Array) -> Array:
    with np.errstate(over="ignore"):
        if name == "silu":
            return x / (1 + np.exp(-x))
        if name == "gelu":
            return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / np.sqrt(2)))
        if name == "gelu_tanh":
            return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x


def available_levels() -> list[str]:
    """Those that this processor has."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for level in LEVELS:
            patch.setenv(ISA, level)
            try:
                session(model(Case(16, 16)))
            except Exception as error:
                if "this processor lacks" not in str(error):
                    raise
            else:
                found.append(level)
    return found
