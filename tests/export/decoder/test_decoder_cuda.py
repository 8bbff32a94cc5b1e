"""The cuda dialect without a GPU: nodes against registered schemas, arithmetic against the cpu dialect, weights."""

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from tests.export.decoder.checkpoints import KINDS
from tests.export.decoder.conftest import BuiltGraph, prompt
from tests.export.decoder.cuda_reference import CudaReference
from tests.export.decoder.decoder_runner import DecoderRunner
from tests.export.decoder.operator_schemas import faults

from fathom_export.decoder import DecoderDialect, DecoderPrecision, build_decoder
from fathom_export.decoder.cuda_dialect import BLOCK_TOKENS, CUDA_OPSET
from fathom_export.errors import UnsupportedArchitectureError
from fathom_export.quantise.fp8_blocks import BLOCK_INPUTS, block_codes, block_scales
from fathom_server.engine.runner.base import StepRow
from fathom_server.engine.settings import GRAPH_FILE, SAMPLING_GRAPH_FILE, TOP_TOKENS

PRECISIONS: list[DecoderPrecision] = ["fp16", "fp8"]
LEAST_COSINES = {"fp16": (0.9999, 0.99999), "fp8": (0.7, 0.97)}
"""Of the worst row and on average, to the fp32 graph's logits: random models amplify what weights lose."""
NOT_CAPTURABLE = {"Shape", "Split", "Concat", "TopK", "If", "Loop", "Scan", "Slice", "Reshape"}

Graphs = Callable[[str, DecoderDialect, DecoderPrecision], BuiltGraph]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_node_is_as_onnx_runtime_registers_its_operator(kind, precision, graph: Graphs) -> None:
    """Every architecture: operators, inputs, outputs, attributes and types are those of the registered schemas."""
    folder, _ = graph(kind, "cuda", precision)
    model = onnx.load(folder / GRAPH_FILE)
    onnx.checker.check_model(model, full_check=True)
    assert faults(model) == []
    assert {node.op_type for node in model.graph.node}.isdisjoint(NOT_CAPTURABLE)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == CUDA_OPSET


@pytest.mark.parametrize("precision", PRECISIONS)
def test_onnx_runtime_resolves_the_graph_and_lacks_only_kernels(precision, graph: Graphs) -> None:
    """Loaded on a CPU it fails where kernels are looked for, which is behind ONNX Runtime's own check of the graph."""
    folder, _ = graph("llama-biases", "cuda", precision)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(Exception, match=r"InsertedPrecisionFreeCast_|Could not find an implementation"):
        ort.InferenceSession(str(folder / GRAPH_FILE), options, providers=["CPUExecutionProvider"])


def test_the_check_of_schemas_finds_faults(graph: Graphs) -> None:
    """A wrong type, a missing input, a strange attribute and an unknown operator are each named."""
    folder, _ = graph("llama-tied", "cuda", "fp16")
    model = onnx.load(folder / GRAPH_FILE)
    attention = next(node for node in model.graph.node if node.op_type == "PagedAttention")
    attention.input[5] = ""
    attention.attribute.append(onnx.helper.make_attribute("page_size", 16))
    next(node for node in model.graph.node if node.op_type == "Mul").input[0] = "input_ids"
    model.graph.node[-1].op_type = "Cats"
    found = "\n".join(faults(model))
    for words in ("cumulative_sequence_length is missing", "no attribute page_size", "no operator .Cats", "but T is"):
        assert words in found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_its_arithmetic_is_the_cpu_dialects(kind, precision, graph: Graphs) -> None:
    """Every architecture: flat mixed steps over scattered blocks give the logits of the fp32 graph, row by row."""
    texts = [prompt(length, seed) for seed, length in enumerate((70, 33, 9))]
    folder, description = graph(kind, "cpu", "fp32")
    expected = []
    for text in texts:
        runner = DecoderRunner(folder, description)
        expected.append(runner.step([text], [list(range(len(text)))])[0])
    found = mixed_steps(*graph(kind, "cuda", precision), texts)
    pairs = [
        (some * others).sum(axis=-1) / (np.linalg.norm(some, axis=-1) * np.linalg.norm(others, axis=-1))
        for some, others in zip(found, expected, strict=True)
    ]
    cosines = np.concatenate(pairs)
    worst, average = LEAST_COSINES[precision]
    assert cosines.min() >= worst
    assert cosines.mean() >= average


def mixed_steps(folder: Path, description, texts: list[list[int]]) -> list[npt.NDArray[np.float32]]:
    """Logits of every position of some texts, computed together in uneven pieces, in small blocks out of order."""
    size = 16
    random = np.random.default_rng(4)
    free = [int(block) for block in random.permutation(16)]
    blocks = [[free.pop() for _ in range(-(-len(text) // size))] for text in texts]
    reference = CudaReference(folder, description, 16, size)
    found: list[list[npt.NDArray[np.float32]]] = [[] for _ in texts]
    past = [0] * len(texts)
    while any(done < len(text) for done, text in zip(past, texts, strict=True)):
        rows, places = [], []
        for place, text in enumerate(texts):
            count = min(int(random.choice([1, 5, 20])), len(text) - past[place])
            if count:
                begin = past[place]
                rows.append(StepRow(blocks[place], begin, text[begin : begin + count], count))
                places.append(place)
        logits = reference.step(rows)
        for row, place in zip(rows, places, strict=True):
            found[place].append(logits[: row.logits])
            logits = logits[row.logits :]
            past[place] += row.logits
    return [np.concatenate(pieces) for pieces in found]


def test_fp8_blocks_are_the_nearest_values_of_their_scale() -> None:
    """Codes times scales equal a value-by-value reference; each run's largest magnitude is kept to half a step."""
    random = np.random.default_rng(0)
    rows = (random.normal(size=(5, 300)) * np.exp(random.normal(size=(5, 300)) * 3)).astype(np.float32)
    rows[2, 128:256] = 0
    scales, codes = block_scales(rows), block_codes(rows)
    assert scales.shape == (5, 3)
    grid = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    grid = np.sort(grid[np.isfinite(grid)])
    for row in range(5):
        for column in range(300):
            run = column // BLOCK_INPUTS
            part = rows[row, run * BLOCK_INPUTS : (run + 1) * BLOCK_INPUTS]
            assert scales[row, run] == np.float32(np.abs(part).max() / np.float32(448))
            if scales[row, run] == 0:
                assert codes[row, column] == 0
                continue
            wanted = rows[row, column] / scales[row, run]
            nearest = np.abs(grid - wanted).min()
            assert abs(np.float32(codes[row, column]) - wanted) == nearest


def test_fp8_weights_in_the_file_are_the_checkpoints(graph: Graphs) -> None:
    """Each matrix of the graph's file, restored, is the fp16 graph's within e4m3's precision; embeddings stay fp16."""
    halves, eights = (
        {
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in onnx.load(graph("llama-odd-sizes", "cuda", precision)[0] / GRAPH_FILE).graph.initializer
        }
        for precision in PRECISIONS
    )
    names = [name.removesuffix(".fp8") for name in eights if name.endswith(".fp8")]
    assert len(names) == 3 * 5
    for name in names:
        original = halves[name].astype(np.float32)
        codes, scales = eights[f"{name}.fp8"], eights[f"{name}.fp8_scales"]
        assert scales.shape == (original.shape[0], -(-original.shape[1] // BLOCK_INPUTS))
        wide = np.repeat(scales, BLOCK_INPUTS, axis=1)[:, : original.shape[1]]
        error = np.abs(codes.astype(np.float32) * wide - original)
        assert (error <= np.maximum(np.abs(original) / 16, wide * 2.0**-9) + 1e-3 * np.abs(original)).all()
    assert eights["model.embed_tokens.weight"].dtype == eights["lm_head.weight"].dtype == np.float16


def test_the_sampling_graph_gives_the_largest_logits_and_their_sum(graph: Graphs) -> None:
    """On ONNX Runtime itself: values and ids of the 64 largest, the first of equals first; a NaN shows in the sum."""
    folder, description = graph("llama-tied", "cuda", "fp16")
    model = onnx.load(folder / SAMPLING_GRAPH_FILE)
    assert faults(model) == []
    session = ort.InferenceSession(str(folder / SAMPLING_GRAPH_FILE), providers=["CPUExecutionProvider"])
    logits = np.random.default_rng(1).normal(size=(4, description.vocabulary)).astype(np.float32)
    logits[1, 7] = logits[1, 200] = 50
    logits[2, 5] = np.nan
    (top,) = session.run(None, {"logits": logits})
    assert top.shape == (4, 2 * TOP_TOKENS + 1)
    for row in (0, 1, 3):
        order = np.argsort(-logits[row], kind="stable")[:TOP_TOKENS]
        np.testing.assert_array_equal(top[row, TOP_TOKENS:-1].astype(np.int64), order)
        np.testing.assert_array_equal(top[row, :TOP_TOKENS], logits[row, order])
    assert np.isnan(top[2, -1])
    assert np.isfinite(top[[0, 1, 3], -1]).all()


def test_the_graph_says_its_block_size_and_takes_a_cache_of_it(graph: Graphs) -> None:
    """Metadata and cache inputs agree, and past and present have one shape."""
    folder, description = graph("qwen3-tied", "cuda", "fp16")
    model = onnx.load(folder / GRAPH_FILE)
    assert {entry.key: entry.value for entry in model.metadata_props}["block_tokens"] == str(BLOCK_TOKENS)
    shapes = {value.name: value.type.tensor_type.shape for value in [*model.graph.input, *model.graph.output]}
    wanted = [BLOCK_TOKENS, description.kv_heads, description.head_dim]
    for name, shape in shapes.items():
        if name.startswith(("past.", "present.")):
            assert [dimension.dim_value for dimension in shape.dim[1:]] == wanted
    assert (description.dialect, description.kv_dtype) == ("cuda", "float16")


def test_heads_that_paged_attention_does_not_take_are_refused(checkpoint, tmp_path: Path) -> None:
    """The refusal names the size, what is taken, and what to use instead."""
    source = tmp_path / "source"
    source.mkdir()
    config = (checkpoint("llama-untied") / "config.json").read_text()
    assert '"head_dim": 16' in config
    (source / "config.json").write_text(config.replace('"head_dim": 16', '"head_dim": 20'))
    with pytest.raises(UnsupportedArchitectureError, match=r"head_dim 20 .* multiples of 8 .* portable"):
        build_decoder(source, tmp_path, dialect="cuda", precision="fp16")
