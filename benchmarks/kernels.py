"""Milliseconds of a decoder step's matrix products: Fathom's Linear beside ONNX Runtime's own kernels, in one run.

    python -m benchmarks.kernels                                       # all, about five minutes
    python -m benchmarks.kernels --rows 1 8 --only int8 MatMulInteger  # those whose names contain either

The shape is SmolLM2-360M's: hidden 960, 32 layers, query, key and value side by side 1600, intermediate 2560,
vocabulary 49152, random weights, other ones in every layer. A product's input is at hand; its quantisation is part of
the time, and for Fathom also RMS norm, residual sum and gate. The LM head is computed for all rows. All sessions are
alive from start to end and take turns, each round in another order, so that a slow phase of the machine meets all of
them; the figure is the median of a contender's steps, and the least one stands beside it.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from fathom_server.native.library import register

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "kernels.json"
HIDDEN: Final = 960
QKV: Final = 1600
INTERMEDIATE: Final = 2560
VOCABULARY: Final = 49152
LAYERS: Final = 32
MICROSOFT: Final = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Product:
    """One matrix product [K, N] of a layer; two (gate and up) where ``gated``; after an RMS norm where ``normed``."""

    name: str
    inputs: int
    outputs: int
    gated: bool = False
    normed: bool = False


LAYER: Final = (
    Product("qkv", HIDDEN, QKV, normed=True),
    Product("o", HIDDEN, HIDDEN),
    Product("gate_up", HIDDEN, INTERMEDIATE, gated=True, normed=True),
    Product("down", INTERMEDIATE, HIDDEN),
)
LM_HEAD: Final = Product("lm_head", HIDDEN, VOCABULARY, normed=True)


class Graph:
    """A graph under construction; weights go to a file beside it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.onnx"
        self._data = (folder / f"{name}.data").open("wb")
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.inputs: dict[str, int] = {}
        self.outputs: list[str] = []
        self._rng = np.random.default_rng(0)

    def activations(self, name: str, width: int) -> str:
        """A graph input [T, width]; a name of its own for each product, so that nobody shares a quantisation."""
        self.inputs[name] = width
        return name

    def codes(self, name: str, shape: Sequence[int], dtype: type = np.uint8) -> str:
        """Random bytes; as int8 none is −128."""
        values = self._rng.integers(0, 255, shape, np.uint8)
        return self._weight(name, values if dtype is np.uint8 else (values.astype(np.int16) - 127).astype(np.int8))

    def scales(self, name: str, shape: Sequence[int]) -> str:
        """Random scales that keep values of this shape in range."""
        return self._weight(name, (self._rng.random(shape, np.float32) + 0.5) * np.float32(1e-3))

    def constant(self, name: str, value: Any) -> str:
        """A small tensor inside the graph."""
        self.initializers.append(onnx.numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """A node; returns its first output."""
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), domain=domain, **attributes))
        return outputs[0]

    def keep(self, value: str) -> None:
        """Make the first row of ``value`` an output, so that nobody prunes what computes it."""
        names = [("row.begin", 0), ("row.end", 1)]
        if not self.outputs:
            for name, number in names:
                self.constant(name, np.array([number], np.int64))
            self.constant("row.axis", np.array([0], np.int64))
        self.outputs.append(self.node("Slice", [value, "row.begin", "row.end", "row.axis"], [f"{value}.row"]))

    def save(self) -> Path:
        """Write the graph; returns its path."""
        self._data.close()
        graph = helper.make_graph(
            self.nodes,
            "kernels",
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", width])
                for name, width in self.inputs.items()
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs],
            self.initializers,
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in (("", 21), (MICROSOFT, 1), ("fathom", 1))]
        self.path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
        return self.path

    def _weight(self, name: str, values: Any) -> str:
        tensor = TensorProto(name=name, dims=values.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        self._data.write(b"\0" * (-self._data.tell() % 4096))
        entries = {"location": Path(self._data.name).name, "offset": self._data.tell(), "length": values.nbytes}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        self._data.write(values.tobytes())
        self.initializers.append(tensor)
        return name


def fathom_linear(bits: int, block_size: int, head_bits: int) -> Callable[[Graph, str, Product], str]:
    """Our operator, over the weights of ``MatMulNBits`` or with one scale a column."""

    def add(graph: Graph, name: str, product: Product) -> str:
        own_bits = head_bits if product is LM_HEAD else bits

        def matrix(prefix: str) -> list[str]:
            k, n = product.inputs, product.outputs
            if block_size == 0:
                return [graph.codes(f"{prefix}.codes", (k, n), np.int8), graph.scales(f"{prefix}.scales", (n,))]
            blocks = -(-k // block_size)
            codes = graph.codes(f"{prefix}.codes", (n, blocks, block_size * own_bits // 8))
            return [codes, graph.scales(f"{prefix}.scales", (n, blocks))]

        x = graph.activations(f"{name}.x", product.inputs)
        outputs = [f"{name}.y"]
        delta = norm = ""
        if product.normed:
            delta = graph.activations(f"{name}.delta", product.inputs)
            norm = graph.constant(f"{name}.norm", np.ones(product.inputs, np.float32))
            outputs.append(f"{name}.residual")
        inputs = [x, delta, norm, *matrix(name), "", ""]
        activation = "none"
        if product.gated:
            inputs += matrix(f"{name}.up")
            activation = "silu"
        return graph.node(
            "Linear",
            inputs,
            outputs,
            domain="fathom",
            K=product.inputs,
            N=product.outputs,
            bits=own_bits,
            block_size=block_size,
            activation=activation,
        )

    return add


def matmul_nbits(bits: int, block_size: int, head_bits: int) -> Callable[[Graph, str, Product], str]:
    """ONNX Runtime's blockwise kernel with 8-bit activations."""

    def add(graph: Graph, name: str, product: Product) -> str:
        own_bits = head_bits if product is LM_HEAD else bits
        k, n = product.inputs, product.outputs * (2 if product.gated else 1)
        blocks = -(-k // block_size)
        codes = graph.codes(f"{name}.codes", (n, blocks, block_size * own_bits // 8))
        inputs = [graph.activations(f"{name}.x", k), codes, graph.scales(f"{name}.scales", (n * blocks,))]
        return graph.node(
            "MatMulNBits",
            inputs,
            [f"{name}.y"],
            domain=MICROSOFT,
            K=k,
            N=n,
            bits=own_bits,
            block_size=block_size,
            accuracy_level=4,
        )

    return add


def dynamic_quantize_matmul(graph: Graph, name: str, product: Product) -> str:
    """ONNX Runtime's int8 kernel with one activation scale for the whole batch."""
    k, n = product.inputs, product.outputs * (2 if product.gated else 1)
    codes, scales = graph.codes(f"{name}.codes", (k, n), np.int8), graph.scales(f"{name}.scales", (n,))
    inputs = [graph.activations(f"{name}.x", k), codes, scales]
    return graph.node("DynamicQuantizeMatMul", inputs, [f"{name}.y"], domain=MICROSOFT)


def matmul_integer(graph: Graph, name: str, product: Product) -> str:
    """What the stock int8 graph runs: one activation scale a row, by ONNX Runtime's own nodes."""
    k, n = product.inputs, product.outputs * (2 if product.gated else 1)
    x = graph.activations(f"{name}.x", k)
    if not graph.outputs and "int8.one" not in {tensor.name for tensor in graph.initializers}:
        graph.constant("int8.axis", np.array([1], np.int64))
        graph.constant("int8.floor", np.array(1e-30, np.float32))
        graph.constant("int8.step", np.array(1 / 127, np.float32))
        graph.constant("int8.one", np.array(1, np.float32))
        graph.constant("int8.zero_point", np.array(128, np.uint8))
        shape = graph.node("Shape", [x], ["int8.shape"], end=1)
        column = graph.node("Concat", [shape, "int8.axis"], ["int8.column"], axis=0)
        value = onnx.numpy_helper.from_array(np.array([128], np.uint8))
        graph.node("ConstantOfShape", [column], ["int8.zero_points"], value=value)
    magnitudes = graph.node("Abs", [x], [f"{name}.magnitudes"])
    largest = graph.node("ReduceMax", [magnitudes, "int8.axis"], [f"{name}.largest"], keepdims=1)
    floored = graph.node("Max", [largest, "int8.floor"], [f"{name}.floored"])
    scale = graph.node("Mul", [floored, "int8.step"], [f"{name}.scale"])
    quantized = graph.node(
        "QuantizeLinear", [x, scale, "int8.zero_points"], [f"{name}.quantized"], axis=1, block_size=k
    )
    codes, scales = graph.codes(f"{name}.codes", (k, n), np.int8), graph.scales(f"{name}.scales", (n,))
    inputs = [quantized, codes, "int8.one", scales, "int8.zero_point"]
    steps = graph.node("MatMulIntegerToFloat", inputs, [f"{name}.steps"], domain=MICROSOFT)
    return graph.node("Mul", [steps, scale], [f"{name}.y"])


CONTENDERS: Final[dict[str, Callable[[Graph, str, Product], str]]] = {
    "Fathom Linear int8": fathom_linear(8, 0, 8),
    "MatMulIntegerToFloat int8, a scale a row": matmul_integer,
    "DynamicQuantizeMatMul int8, a scale a batch": dynamic_quantize_matmul,
    "Fathom Linear int4, block 128": fathom_linear(4, 128, 4),
    "MatMulNBits int4, block 128": matmul_nbits(4, 128, 4),
    "Fathom Linear int4, block 32": fathom_linear(4, 32, 4),
    "MatMulNBits int4, block 32": matmul_nbits(4, 32, 4),
    "Fathom Linear int8, block 32": fathom_linear(8, 32, 8),
    "MatMulNBits int8, block 32": matmul_nbits(8, 32, 8),
}


class Contender:
    """A session of one kernel, and what a step costs on it."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self.name = name
        graph = Graph(folder, name.replace(" ", "_").replace(",", ""))
        for layer in range(LAYERS):
            for product in LAYER:
                graph.keep(CONTENDERS[name](graph, f"{layer}.{product.name}", product))
        graph.keep(CONTENDERS[name](graph, LM_HEAD.name, LM_HEAD))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if "Fathom" in name and not register(options):
            raise SystemExit("the operator library is not built; run python -m fathom_server.native.build")
        path = graph.save()
        began = time.perf_counter()
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.load_s = time.perf_counter() - began
        self._inputs, self._outputs = graph.inputs, graph.outputs
        self._binding: Any = None

    def bind(self, rows: int) -> None:
        """Take inputs of so many rows from now on."""
        rng = np.random.default_rng(rows)
        self._binding = self._session.io_binding()
        self._values = {
            width: ort.OrtValue.ortvalue_from_numpy(rng.standard_normal((rows, width), np.float32))
            for width in set(self._inputs.values())
        }
        for name, width in self._inputs.items():
            self._binding.bind_ortvalue_input(name, self._values[width])
        for name in self._outputs:
            self._binding.bind_output(name, "cpu")

    def step_ms(self) -> float:
        """Run one step."""
        began = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        return (time.perf_counter() - began) * 1e3


@dataclass(frozen=True, slots=True)
class Figure:
    """One contender at one number of rows."""

    contender: str
    rows: int
    median_ms: float
    least_ms: float


def measure(contenders: Sequence[Contender], rows: int, rounds: int, turn_s: float) -> list[Figure]:
    """Turns of every contender, in another order each round."""
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for contender in contenders:
        contender.bind(rows)
        contender.step_ms()
    for number in range(rounds):
        order = list(contenders)
        random.Random(number).shuffle(order)
        for contender in order:
            contender.step_ms()  # the others' weights are in the caches
            end = time.perf_counter() + turn_s
            while True:
                times[contender.name].append(contender.step_ms())
                if time.perf_counter() >= end:
                    break
    return [Figure(name, rows, statistics.median(each), min(each)) for name, each in times.items()]


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16, 128, 512], help="rows of a step")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--turn-s", type=float, default=0.5, help="length of a turn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each session (default: %(default)s)")
    parser.add_argument("--only", nargs="+", help="contenders whose name contains one of these")
    parser.add_argument("--result", type=Path, help="write the figures as JSON here too")
    arguments = parser.parse_args()
    names = [name for name in CONTENDERS if not arguments.only or any(part in name for part in arguments.only)]
    with tempfile.TemporaryDirectory(prefix="fathom-kernels-") as folder:
        contenders = [Contender(name, Path(folder), arguments.threads) for name in names]
        for contender in contenders:
            print(f"{contender.name}: session in {contender.load_s:.2f} s", file=sys.stderr)
        figures = []
        for rows in arguments.rows:
            figures += measure(contenders, rows, arguments.rounds, arguments.turn_s)
            for figure in figures[-len(contenders) :]:
                print(
                    f"{figure.rows:5} {figure.median_ms:8.1f} {figure.least_ms:8.1f}  {figure.contender}",
                    file=sys.stderr,
                )
    print(table(figures, names, arguments.rows))
    if arguments.result:
        arguments.result.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": processor(),
            "onnxruntime": ort.__version__,
            "threads": arguments.threads,
            "figures": [{name: getattr(figure, name) for name in Figure.__slots__} for figure in figures],
        }
        arguments.result.write_text(json.dumps(content, indent=2) + "\n")
    return 0


def table(figures: Sequence[Figure], names: Sequence[str], rows: Sequence[int]) -> str:
    """A Markdown table, median (least) in milliseconds."""
    cells = {(figure.contender, figure.rows): f"{figure.median_ms:.1f} ({figure.least_ms:.1f})" for figure in figures}
    lines = [
        f"ms a step, median (least); {processor()}, onnxruntime {ort.__version__}",
        "",
        f"| kernel | {' | '.join(f'{count} rows' for count in rows)} |",
        f"|---|{'---|' * len(rows)}",
        *(f"| {name} | {' | '.join(cells[name, count] for count in rows)} |" for name in names),
    ]
    return "\n".join(lines)


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
