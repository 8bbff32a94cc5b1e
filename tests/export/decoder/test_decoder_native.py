"""The native graph: the stock graph's weights in Fathom's operators, with the same answers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from tests.export.decoder.checkpoints import KINDS
from tests.export.decoder.conftest import BuiltGraph, prompt
from tests.export.decoder.decoder_runner import DecoderRunner

from fathom_export.decoder import build_decoder
from fathom_export.decoder.graph_writer import GraphWriter
from fathom_server.engine.runner.base import StepRow
from fathom_server.engine.settings import EngineLimits, EngineSettings, GraphDescription, KvDtype
from fathom_server.native.library import library_path

needs_operators = pytest.mark.skipif(library_path() is None, reason="Fathom's operators are not built here")

TEXT = prompt(150, 1)
LEAST_MEAN_COSINE = {"float32": 0.999, "float16": 0.998, "int8": 0.996}
"""To the stock graph's logits, whose cache is float32: the random models amplify what the cache's rounding changes."""


@pytest.fixture(scope="session")
def native(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str, str, KvDtype], BuiltGraph]:
    """Gives the folder and description of a checkpoint's graphs, whose paged cache keeps a type."""
    built: dict[tuple[str, str, str], BuiltGraph] = {}

    def make(kind: str, precision: str, kv_dtype: KvDtype) -> BuiltGraph:
        key = (kind, precision, kv_dtype)
        if key not in built:
            folder = tmp_path_factory.mktemp("-".join(key))
            description = build_decoder(
                checkpoint(kind),
                folder,
                dialect="cpu",
                precision=precision,  # type: ignore[arg-type]
                kv_cache_dtype=kv_dtype,
            )
            built[key] = folder, description
        return built[key]

    return make


def compute(
    folder: Path, description: GraphDescription, kv_dtype: KvDtype, chunks: list[int] | None = None
) -> npt.NDArray[np.float32]:
    """Logits of every position of ``TEXT`` by the native graph, in chunks of these sizes."""
    from fathom_server.engine.runner.native import NativeRunner

    limits = EngineLimits(max_batch=2, max_context=description.max_context, kv_cache_dtype=kv_dtype)
    runner = NativeRunner(folder, EngineSettings(description, limits))
    blocks = [*range(runner.geometry.blocks)][::-1][: -(-len(TEXT) // runner.geometry.block_tokens)]
    found, past = [], 0
    for size in chunks or [len(TEXT)]:
        found.append(runner.step([StepRow(blocks, past, TEXT[past : past + size], size)]).copy())
        past += size
    return np.concatenate(found)


def cosines(some: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Cosine similarity of each row to its counterpart."""
    return (some * others).sum(axis=-1) / (np.linalg.norm(some, axis=-1) * np.linalg.norm(others, axis=-1))


@needs_operators
@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_stock_graphs(kind, precision, kv_dtype, native):
    """Every architecture in both precisions: over 150 positions, the logits are those of the stock graph."""
    folder, description = native(kind, precision, kv_dtype)

    stock = DecoderRunner(folder, description).step([TEXT], [range(len(TEXT))])[0]
    found = compute(folder, description, kv_dtype)

    assert found.shape == stock.shape
    assert cosines(found, stock).mean() >= LEAST_MEAN_COSINE[kv_dtype]
    if kv_dtype == "float32":
        assert (found.argmax(axis=1) == stock.argmax(axis=1)).mean() >= 0.9


@needs_operators
@pytest.mark.parametrize("kv_dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("kind", ["llama-biases", "qwen3-tied", "mistral-windowed", "gemma2", "olmo2", "phi3-partial"])
def test_chunks_give_the_bits_of_the_whole(kind, precision, kv_dtype, native):
    """A prompt in chunks of any size gives the very logits of the prompt at once."""
    folder, description = native(kind, precision, kv_dtype)
    whole = compute(folder, description, kv_dtype)
    for chunks in ([1, 7, 31, 32, 33, 1, 45], [64, 64, 22], [1] * 40 + [110]):
        np.testing.assert_array_equal(compute(folder, description, kv_dtype, chunks), whole)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("kind", ["llama-untied", "llama-tied", "llama-odd-sizes", "gemma3-text", "olmo2"])
def test_no_weight_is_stored_twice(kind, precision, native):
    """Every tensor of the native graph above a hundred bytes is a stretch of the stock graph's file."""
    folder, _ = native(kind, precision, "int8")
    stock = onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer
    places = {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in stock}
    graph = onnx.load(folder / "model.native.onnx", load_external_data=False).graph
    shared = 0
    for tensor in graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            assert place == places[tensor.name], tensor.name
            shared += 1
        else:
            assert tensor.ByteSize() < 1000, tensor.name
    assert shared > 10
    assert (folder / "model.native.onnx").stat().st_size < 40_000
    assert sorted(path.name for path in folder.iterdir()) == ["model.native.onnx", "model.onnx", "model.onnx.data"]


def test_a_layer_is_five_operators(native):
    """Norms, residuals, biases, the activation, rotary embedding and the cache are inside of them."""
    folder, description = native("llama-biases", "int8", "int8")
    model = onnx.load(folder / "model.native.onnx", load_external_data=False)
    own = [node.op_type for node in model.graph.node if node.domain == "fathom"]
    assert own == ["Linear", "Attention", "Linear", "Linear", "Linear"] * description.layers + ["Linear"]
    assert {entry.domain: entry.version for entry in model.opset_import}["fathom"] == 1
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "dialect": "native",
        "precision": "int8",
        "block_tokens": "32",
        "kv_dtype": "int8",
    }


@pytest.mark.parametrize(("dialect", "precision"), [("cpu", "fp32"), ("portable", "fp16")])
def test_other_graphs_have_no_native_one(dialect, precision, graph):
    """Only the cpu dialect in int8 and int4 has weights that Fathom's operators read."""
    folder, _ = graph("llama-untied", dialect, precision)
    assert not (folder / "model.native.onnx").exists()


def test_a_weight_that_the_stock_graph_lacks_is_refused(native, tmp_path: Path):
    """A graph is not written over a file that does not hold its weights, in its form."""
    folder, _ = native("llama-untied", "int8", "int8")
    writer = GraphWriter("test", {}, "test", "1")
    writer.constant("model.norm.weight", np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"model\.norm\.weight of .* is "):
        writer.save_over(tmp_path / "model.native.onnx", folder / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@needs_operators
def test_steps_without_logits_and_of_many_rows(native):
    """Rows of a step may want none, one or all of their logits, and get those of the row by itself."""
    from fathom_server.engine.runner.native import NativeRunner

    folder, description = native("qwen3-tied", "int8", "int8")
    limits = replace(EngineLimits(), max_batch=3, max_context=description.max_context)
    runner = NativeRunner(folder, EngineSettings(description, limits))
    whole = compute(folder, description, "int8")
    assert runner.step([StepRow([0], 0, TEXT[:20], 0)]).shape == (0, description.vocabulary)
    rows = [StepRow([0], 20, TEXT[20:21], 1), StepRow([1], 0, TEXT[:30], 30), StepRow([2], 0, TEXT[:9], 0)]
    found = runner.step(rows)
    np.testing.assert_array_equal(found, np.concatenate([whole[20:21], whole[:30]]))
