"""The graph of an int8 encoder in Fathom's own operators: what it says, where it is served, and where it is not."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from tests.export.encoder_checkpoints import FAMILIES, write_checkpoint
from tests.export.test_export_repository import Quiet
from tests.serving import FathomServe

from fathom_client import Client
from fathom_export.encoder import build_encoder
from fathom_export.export_model import export_model
from fathom_export.spec import EmbedSpec
from fathom_server.engine.runner.load import served_graph
from fathom_server.native.library import library_path, register
from fathom_server.processor import has_avx2

pytestmark = pytest.mark.skipif(
    library_path() is None or not has_avx2(), reason="the operator library is not built, or this is no AVX2 machine"
)


def run(graph: Path, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Embeddings of a batch."""
    options = onnxruntime.SessionOptions()
    assert register(options)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    result: npt.NDArray[np.float32] = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    return result


@pytest.mark.parametrize("family", list(FAMILIES))
def test_both_int8_graphs_are_of_one_mind(family: str, tmp_path: Path) -> None:
    """The native graph shares the stock one's weights, has no product left over, and says nearly the same.

    A text has the same embedding alone and beside others, up to the rounding of attention's float32.
    """
    source = write_checkpoint(tmp_path / "source", family)
    built = build_encoder(source, tmp_path, precision="int8")
    assert served_graph(tmp_path) == "model.native.onnx"
    assert built.check["native_cosine_min"] >= 0.97
    stock, native = (
        onnx.load(tmp_path / name, load_external_data=False) for name in ("model.onnx", "model.native.onnx")
    )
    stored = {tensor.name: tensor.external_data for tensor in stock.graph.initializer}
    shared = [tensor for tensor in native.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in shared)
    assert all(tensor.external_data == stored[tensor.name] for tensor in shared)
    weights = {tensor.name for tensor in native.graph.initializer}
    assert not [node for node in native.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    linears = [node for node in native.graph.node if node.op_type == "Linear"]
    assert len(linears) == len([node for node in stock.graph.node if node.op_type == "MatMulIntegerToFloat"])
    chance = np.random.default_rng(0)
    ids, mask = chance.integers(6, 60, (5, 32)), np.ones((5, 32), np.int64)
    one, other = (run(tmp_path / name, ids, mask) for name in ("model.onnx", "model.native.onnx"))
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosines.min() >= 0.98
    for row in range(len(ids)):
        alone = run(tmp_path / "model.native.onnx", ids[row : row + 1], mask[:1])
        np.testing.assert_allclose(alone[0], other[row], atol=1e-5 * np.abs(other).max())


def test_the_backend_serves_the_native_graph_unless_it_is_turned_off(
    tiny_bert: Path, tmp_path: Path, serve: Callable[..., FathomServe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Served answers are those of the native graph, bit for bit; with FATHOM_NATIVE=0 those of the stock one.

    Without the native graph's file the stock one is served, too.
    """
    repository = tmp_path / "repository"
    spec = EmbedSpec("embed", str(tiny_bert), precision="int8")
    export_model(spec, Path(), repository, Quiet(), accept_quality="random weights")
    version = repository / "embed_encoder" / "1"
    card = json.loads((version / "quality.json").read_text())
    assert card["graph"] == "model.native.onnx"
    assert any("model.native.onnx" in note for note in card["notes"])

    def served() -> npt.NDArray[np.float32]:
        server = serve(repository)
        with Client(f"127.0.0.1:{server.grpc_port}") as client:
            vectors: npt.NDArray[np.float32] = client.embed("embed", ["the cat sat"]).vectors
        server.stop()
        return vectors

    native = served()
    monkeypatch.setenv("FATHOM_NATIVE", "0")
    stock = served()
    monkeypatch.delenv("FATHOM_NATIVE")
    assert not np.array_equal(native, stock)
    assert float((native * stock).sum() / np.linalg.norm(native) / np.linalg.norm(stock)) > 0.98
    (version / "model.native.onnx").unlink()
    np.testing.assert_array_equal(served(), stock)
