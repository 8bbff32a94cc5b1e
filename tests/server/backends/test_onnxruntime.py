"""The Python-based onnxruntime backend under a real Triton."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton_grpc
from tests.server.backends import graphs
from tests.serving import FathomServe
from tritonclient.utils import InferenceServerException

DTYPES = {
    np.dtype(np.float32): "FP32",
    np.dtype(np.int64): "INT64",
    np.dtype(np.float64): "FP64",
    np.dtype(object): "BYTES",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    """A server of every well-formed model."""
    folder = tmp_path_factory.mktemp("onnxruntime")
    repository = folder / "repository"
    graphs.affine(graphs.write_model(repository, "affine", graphs.AFFINE_CONFIG, "affine.onnx"))
    graphs.lookup(graphs.write_model(repository, "lookup", graphs.LOOKUP_CONFIG))
    graphs.echo(graphs.write_model(repository, "echo", graphs.ECHO_CONFIG))
    graphs.lookup(graphs.write_model(repository, "bare_batched", graphs.BARE_CONFIG))
    graphs.total(graphs.write_model(repository, "bare_single", graphs.BARE_CONFIG))
    with FathomServe(repository, folder / "log", ("--auto-complete-config",)) as running:
        yield running


@pytest.fixture
def client(server: FathomServe) -> Iterator[Any]:
    """A gRPC client of the server."""
    with triton_grpc.InferenceServerClient(server.url) as connected:
        yield connected


def infer(client: Any, model: str, outputs: list[str] | None = None, **inputs: np.ndarray) -> Any:
    """One unary request."""
    tensors = []
    for name, array in inputs.items():
        tensor = triton_grpc.InferInput(name, list(array.shape), DTYPES[array.dtype])
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    wanted = None if outputs is None else [triton_grpc.InferRequestedOutput(name) for name in outputs]
    return client.infer(model, tensors, outputs=wanted, client_timeout=30)


def test_concurrent_requests_share_runs_and_get_their_own_rows(server: FathomServe, client: Any) -> None:
    """Requests of mixed batch sizes share runs, and each gets its own rows of what onnxruntime computes."""
    session = onnxruntime.InferenceSession(server.repository / "affine" / "1" / "affine.onnx")
    random = np.random.default_rng(7)
    batches = [random.standard_normal((1 + place % 3, 4), dtype=np.float32) for place in range(96)]
    before = server.statistics("affine")
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda batch: infer(client, "affine", X=batch), batches))
    for batch, result in zip(batches, results, strict=True):
        product, negated = session.run(["PRODUCT", "NEGATED"], {"X": batch})
        np.testing.assert_allclose(result.as_numpy("PRODUCT"), product, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(result.as_numpy("NEGATED"), negated)
    after = server.statistics("affine")
    rows = int(after["inference_count"]) - int(before.get("inference_count", 0))
    runs = int(after["execution_count"]) - int(before.get("execution_count", 0))
    assert rows == sum(map(len, batches))
    assert runs < len(batches) / 2


def test_only_requested_outputs_are_given(client: Any) -> None:
    """A request that names one output gets that one alone."""
    rows = np.ones((2, 4), np.float32)
    result = infer(client, "affine", outputs=["NEGATED"], X=rows)
    np.testing.assert_array_equal(result.as_numpy("NEGATED"), -rows)
    assert result.as_numpy("PRODUCT") is None


def test_bad_request_does_not_fail_its_neighbours(server: FathomServe, client: Any) -> None:
    """Of four requests that come together one has an id outside the table: it alone fails, as the caller's fault."""
    before = server.statistics("lookup")
    ids = [[0, 1], [2, 3], [99, 4], [5, 6]]
    with ThreadPoolExecutor(4) as pool:
        pending = [pool.submit(infer, client, "lookup", IDS=np.array([row], np.int64)) for row in ids]
    for row, answer in zip(ids, pending, strict=True):
        if 99 in row:
            with pytest.raises(InferenceServerException, match="out of data bounds") as caught:
                answer.result()
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        else:
            np.testing.assert_array_equal(answer.result().as_numpy("VECTORS"), graphs.TABLE[[row]])
    after = server.statistics("lookup")
    assert int(after["execution_count"]) - int(before.get("execution_count", 0)) == 1


def test_different_lengths_in_one_batch(server: FathomServe, client: Any) -> None:
    """Requests of different lengths that Triton hands over together (ragged) are each answered at their length."""
    before = server.statistics("lookup")
    ids = [[1], [2, 3], [4], [5, 6, 7]]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda row: infer(client, "lookup", IDS=np.array([row], np.int64)), ids))
    for row, result in zip(ids, results, strict=True):
        np.testing.assert_array_equal(result.as_numpy("VECTORS"), graphs.TABLE[[row]])
    after = server.statistics("lookup")
    assert int(after["execution_count"]) - int(before.get("execution_count", 0)) == 1


def test_strings_come_back(client: Any) -> None:
    """Text goes in and out as UTF-8, and bytes that are not UTF-8 are the caller's fault alone."""
    texts = ["grüße, 世界 🌊".encode(), b"plain"]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda text: infer(client, "echo", TEXT=np.array([[text]], object)), texts))
    assert [result.as_numpy("SAME")[0, 0] for result in results] == texts
    with ThreadPoolExecutor(2) as pool:
        good, bad = (
            pool.submit(infer, client, "echo", TEXT=np.array([[text]], object)) for text in (b"good", b"\xff\xfe")
        )
    assert good.result().as_numpy("SAME")[0, 0] == b"good"
    with pytest.raises(InferenceServerException) as caught:
        bad.result()
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_config_is_completed_from_the_graph(server: FathomServe, client: Any) -> None:
    """A config that says only the backend gets the graph's tensors if asked, and batching where the graph can."""
    batched = json.loads(server.get("/v2/models/bare_batched/config")[1])
    assert batched["max_batch_size"] == 4
    assert "dynamic_batching" in batched
    [given] = batched["input"]
    assert (given["name"], given["data_type"], given["dims"]) == ("IDS", "TYPE_INT64", [-1])
    [output] = batched["output"]
    assert (output["name"], output["data_type"], output["dims"]) == ("VECTORS", "TYPE_FP32", [-1, 2])
    result = infer(client, "bare_batched", IDS=np.array([[3], [9]], np.int64))
    np.testing.assert_array_equal(result.as_numpy("VECTORS"), graphs.TABLE[[[3], [9]]])

    single = json.loads(server.get("/v2/models/bare_single/config")[1])
    assert single["max_batch_size"] == 0
    assert infer(client, "bare_single", VALUES=np.array([1.5, 2, 3])).as_numpy("SUM").tolist() == [6.5]


def test_models_that_do_not_fit_their_config_are_named(tmp_path: Path) -> None:
    """Each wrong config is refused at load with the tensor or parameter, what is written, and what the graph has."""
    repository = tmp_path / "repository"
    changes = {
        "wrong_type": ("TYPE_FP32 dims: [4]", "TYPE_FP64 dims: [4]"),
        "wrong_dims": ("dims: [4]", "dims: [5]"),
        "wrong_rank": ("dims: [3]", "dims: [3, 1]"),
        "wrong_name": ('"NEGATED"', '"INVERTED"'),
        "wrong_threads": ('string_value: "1"', 'string_value: "many"'),
        "no_file": ("affine.onnx", "other.onnx"),
    }
    for name, (old, new) in changes.items():
        assert old in graphs.AFFINE_CONFIG
        graphs.affine(graphs.write_model(repository, name, graphs.AFFINE_CONFIG.replace(old, new), "affine.onnx"))
    graphs.write_model(repository, "no_model", graphs.AFFINE_CONFIG, "affine.onnx").write_bytes(b"not an ONNX file")
    graphs.affine(graphs.write_model(repository, "bare", graphs.BARE_CONFIG))
    server = FathomServe(repository, tmp_path / "log").start()
    assert server.process is not None
    assert server.process.wait(timeout=120) == 1
    server.stop()
    [line] = [line for line in server.stderr().splitlines() if line.startswith("fathom-serve: error: ")]
    for name, message in (
        ("wrong_type", "tensor 'X' is TYPE_FP64 in config.pbtxt, but TYPE_FP32 in the graph"),
        ("wrong_dims", "tensor 'X' has the dims [5] after the batch dimension"),
        ("wrong_rank", "tensor 'PRODUCT' has the dims [3, 1]"),
        ("wrong_name", "output 'INVERTED' of config.pbtxt is not in the graph, whose outputs are PRODUCT, NEGATED"),
        ("wrong_threads", "parameter intra_op_thread_count is 'many'"),
        ("no_file", "other.onnx is missing"),
        ("bare", "lacks the graph's inputs X; add them, or start fathom-serve with --auto-complete-config"),
        ("no_model", "cannot be loaded by ONNX Runtime"),
    ):
        start = line.index(f"model {name!r} cannot be loaded")
        reason = line[start:].split("; model ")[0]
        assert message in reason
