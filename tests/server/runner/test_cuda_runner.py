"""The CUDA runner without a GPU: its bindings, memory and CUDA graphs over operators in numpy, and its refusals."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from tests.export.decoder.checkpoints import write_checkpoint
from tests.server.runner.device_session import DeviceSession

from fathom_export.decoder import build_decoder
from fathom_server.engine.runner import cuda_device, cuda_inputs, cuda_onnx
from fathom_server.engine.runner.base import ReducingRunner, StepRow
from fathom_server.engine.runner.cuda_onnx import CudaOnnxRunner, padded_batches
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.sampler import SequenceSampler
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import GRAPH_FILE, EngineLimits, EngineSettings
from fathom_server.errors import SettingsError

CONTEXT, VOCABULARY = 768, 320


@dataclass
class Built:
    """The same checkpoint for the GPU and, in fp32, for the CPU."""

    cuda: Path
    cpu: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A small Llama of three blocks' context."""
    source = write_checkpoint("llama-tied", tmp_path_factory.mktemp("source"))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    folders = []
    for dialect, precision in (("cuda", "fp16"), ("cpu", "fp32")):
        folder = tmp_path_factory.mktemp(dialect)
        graph = build_decoder(source, folder, dialect=dialect, precision=precision)  # type: ignore[arg-type]
        EngineSettings(graph, EngineLimits(max_batch=6, max_context=CONTEXT, prefill_chunk=64)).save(folder)
        folders.append(folder)
    return Built(*folders)


@pytest.fixture
def runner(built: Built, monkeypatch: pytest.MonkeyPatch) -> CudaOnnxRunner:
    """The runner, its device this machine's memory; reducing logits is ONNX Runtime's own work."""

    def open_session(path: Path, provider_options: dict[str, str], entries: object) -> Any:
        if path.name == GRAPH_FILE:
            assert provider_options == {"enable_cuda_graph": "1"}
            return DeviceSession(path)
        return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    monkeypatch.setattr(cuda_onnx, "DEVICE", "cpu")
    monkeypatch.setattr(cuda_onnx, "require_cuda", lambda precision: None)
    monkeypatch.setattr(cuda_onnx, "open_session", open_session)
    loaded = load_runner(built.cuda, EngineSettings.load(built.cuda))
    assert isinstance(loaded, CudaOnnxRunner)
    return loaded


@pytest.fixture(scope="module")
def reference(built: Built) -> Callable[[list[int]], npt.NDArray[np.float32]]:
    """Logits of every position of a text by the fp32 graph on the CPU."""
    from fathom_server.engine.runner.onnx import OnnxRunner

    session = OnnxRunner(built.cpu, EngineSettings.load(built.cpu))
    return lambda text: session.prefill(0, 0, np.array(text), len(text)).copy()


def texts() -> list[list[int]]:
    """Three texts, one of more than two blocks."""
    random = np.random.default_rng(0)
    return [random.integers(0, VOCABULARY, length).tolist() for length in (540, 40, 7)]


def assert_close(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> None:
    """Rows point the same way: what float16 weights and cache change is far less."""
    products = (found * wanted).sum(axis=-1)
    assert (products / np.linalg.norm(found, axis=-1) / np.linalg.norm(wanted, axis=-1)).min() > 0.999


def test_mixed_steps_give_the_cpu_graphs_logits(runner: CudaOnnxRunner, reference) -> None:
    """Chunks, single tokens and drafts in one step, blocks out of order: the logits of each text alone."""
    assert isinstance(runner, ReducingRunner)
    geometry = runner.geometry
    assert (geometry.blocks, geometry.block_tokens, geometry.shareable) == (18, 256, True)
    wanted = [reference(text) for text in texts()]
    blocks, past = [[11, 2, 7], [0, 5, 1], [17, 3, 4]], [0, 0, 0]
    random = np.random.default_rng(1)
    while any(done < len(text) for done, text in zip(past, texts(), strict=True)):
        rows, places = [], []
        for place, text in enumerate(texts()):
            count = min(int(random.choice([1, 4, 180])), len(text) - past[place])
            if count:
                logits = int(random.integers(0, min(count, 9) + 1))
                rows.append(StepRow(blocks[place], past[place], text[past[place] : past[place] + count], logits))
                places.append(place)
                past[place] += count
        found = runner.step(rows)
        assert len(found) == sum(row.logits for row in rows)
        for row, place in zip(rows, places, strict=True):
            if row.logits:
                end = row.past + len(row.token_ids)
                assert_close(found[: row.logits], wanted[place][end - row.logits : end])
            found = found[row.logits :]


def test_decode_steps_are_padded_cuda_graphs(runner: CudaOnnxRunner, reference) -> None:
    """Three sequences decode in the graph of batch 4, and in one of their own once one of them is long.

    The session itself holds that a graph's shapes, addresses and bounds stay as they were.
    """
    session: Any = runner._session
    ends = [508, 30, 3]
    for place, (text, end) in enumerate(zip(texts(), ends, strict=True)):
        runner.step([StepRow([place * 3, place * 3 + 1, place * 3 + 2], 0, text[:end], 1)])
    assert session.runs == ["-1"] * 3
    wanted = [reference(text) for text in texts()]
    for step in range(8):
        rows = [
            StepRow([place * 3, place * 3 + 1, place * 3 + 2], end + step, [text[(end + step) % len(text)]], 1)
            for place, (text, end) in enumerate(zip(texts(), ends, strict=True))
        ]
        found = runner.step(rows)
        assert found.shape == (3, VOCABULARY)
        for place in (0, 1):
            assert_close(found[place], wanted[place][ends[place] + step])
    assert session.runs[3:] == ["1"] * 4 + ["2"] * 4
    runner.step([StepRow([0], 5, [1], 1)])
    assert session.runs[-1] == "3"


def test_reduced_logits_choose_what_all_of_them_choose(runner: CudaOnnxRunner) -> None:
    """The 64 largest stand in their places, the rest is minus infinity, and what an earlier step left is gone."""
    text = texts()[1]
    for length in (5, 20, 33):
        row = StepRow([0], 0, text[:length], min(length, 6))
        whole, reduced = runner.step([row]), runner.step_reduced([row])
        known = np.isfinite(reduced)
        assert (known.sum(axis=1) == runner.reduced_tokens).all()
        np.testing.assert_array_equal(reduced[known], whole[known])
        np.testing.assert_array_equal(reduced.argmax(axis=1), whole.argmax(axis=1))
        assert (np.where(known, np.inf, whole).min(axis=1) <= np.where(known, whole, np.inf).min(axis=1)).all()


def test_a_row_that_is_not_a_number_stays_one(runner: CudaOnnxRunner) -> None:
    """One NaN among a row's logits makes its reduced row NaN, for that step and that row alone."""
    top = np.zeros((2, 2 * 64 + 1), np.float32)
    top[:, :64], top[:, 64:128] = np.arange(64, 0, -1), np.arange(64)
    broken = top.copy()
    broken[1, -1] = np.nan
    found = runner._expanded(broken)
    assert np.isfinite(found[0].max())
    assert np.isnan(found[1].max())
    assert np.isfinite(runner._expanded(top).max(axis=1)).all()


@pytest.mark.parametrize(
    ("sampling", "enough"),
    [
        ({}, True),
        ({"temperature": 1.0, "top_k": 32, "top_p": 0.9, "seed": 1}, True),
        ({"temperature": 1.0, "top_k": 33}, False),
        ({"temperature": 1.0}, False),
        ({"logprobs": 0}, False),
        ({"temperature": 1.0, "top_k": 5, "repetition_penalty": 1.1}, False),
        ({"min_tokens": 3}, False),
        ({"logit_bias": ((3, 1.0),)}, False),
    ],
)
def test_requests_say_whether_the_largest_logits_are_enough(sampling: dict[str, Any], enough: bool) -> None:
    """Greedy, and top-k well within what is kept; nothing that may raise another token, or tell of all of them."""
    sampler = SequenceSampler(SamplingParameters(**sampling), [1], VOCABULARY, [2], 0)
    assert sampler.needs_only(64) == enough


def test_batches_with_a_graph_reach_the_limit_and_no_further() -> None:
    """Few sizes, each at most eight more than the one before, the last the limit itself."""
    assert padded_batches(1) == [1]
    assert padded_batches(6) == [1, 2, 4, 6]
    assert padded_batches(16) == [1, 2, 4, 8, 16]
    assert padded_batches(20) == [1, 2, 4, 8, 16, 20]


def test_inputs_grow_and_keep_what_fitted() -> None:
    """A step beyond the first sizes gets new memory in which all earlier ones fit."""
    inputs = cuda_inputs.StepInputs("cpu", 8, 2, 2, 3)
    assert inputs.hold(8, 2, 2)
    assert not inputs.hold(9, 1, 1)
    assert inputs.grown(9, 1, 1).hold(9, 2, 2)


def test_an_onnxruntime_without_cuda_is_refused_with_the_remedy(built: Built) -> None:
    """On this machine's own onnxruntime: one sentence names the provider and what to install."""
    with pytest.raises(SettingsError, match=r"CUDAExecutionProvider.*pip install 'fathom-server\[gpu\]'"):
        load_runner(built.cuda, EngineSettings.load(built.cuda))


def test_a_machine_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime has its provider but the driver finds no GPU, the sentence says so."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [cuda_device.PROVIDER])
    if cuda_device.compute_capability() is None:
        with pytest.raises(SettingsError, match="driver finds none"):
            cuda_device.require_cuda("fp16")


@pytest.mark.parametrize(("capability", "taken"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch, capability: Any, taken: bool) -> None:
    """The sentence names the precision, what the GPU has and what is needed."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [cuda_device.PROVIDER])
    monkeypatch.setattr(cuda_device, "compute_capability", lambda: capability)
    if taken:
        cuda_device.require_cuda("fp8")
        return
    with pytest.raises(SettingsError, match=r"fp8 .* 8\.0 .* 7\.5"):
        cuda_device.require_cuda("fp8")
