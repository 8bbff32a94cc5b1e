"""The server's TensorRT runner against a played GPU whose engine computes with ONNX Runtime at the given addresses."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.export.tensorrt.played_tensorrt import MAGIC, PlayedTensorRT

from fathom_export.cli import main
from fathom_export.tensorrt.half_precision import write_half
from fathom_server.engine.plan_passport import PlanPassport
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.runner.onnx import OnnxRunner
from fathom_server.engine.runner.slots import SlotRunnerAdapter
from fathom_server.engine.runner.tensorrt import TensorRTRunner
from fathom_server.engine.settings import EngineSettings
from fathom_server.errors import DeviceError, SettingsError

PROMPTS = [list(range(5, 29)), [7, 8, 9], [40] * 17]


@pytest.fixture
def folder(played: PlayedTensorRT, exported: Path, tmp_path: Path) -> Path:
    """A version's folder with a plan in it."""
    repository = Path(shutil.copytree(exported, tmp_path / "models"))
    assert main(["plan", "chat", "--repository", str(repository)]) == 0
    return repository / "chat" / "1"


@pytest.fixture
def runner(folder: Path) -> Iterator[TensorRTRunner]:
    """The runner that the folder asks for."""
    adapter = load_runner(folder, EngineSettings.load(folder))
    assert isinstance(adapter, SlotRunnerAdapter)
    assert isinstance(adapter.runner, TensorRTRunner)
    yield adapter.runner
    adapter.close()


@pytest.fixture
def reference(folder: Path, tmp_path: Path) -> OnnxRunner:
    """The same float16 graph on ONNX Runtime, as the engine runs it without a plan."""
    other = tmp_path / "reference"
    other.mkdir()
    write_half(folder / "model.onnx", other / "model.onnx")
    settings = EngineSettings.load(folder)
    return OnnxRunner(other, replace(settings, graph=replace(settings.graph, kv_dtype="float16")))


def generate(runner: TensorRTRunner | OnnxRunner, steps: int) -> tuple[list[list[int]], list[np.ndarray]]:
    """Prefill three prompts in chunks of 16, decode together, let the first leave, decode on: tokens and logits."""
    kept: list[np.ndarray] = []
    lengths, tokens = [len(prompt) for prompt in PROMPTS], []
    for slot, prompt in enumerate(PROMPTS):
        for begin in range(0, len(prompt), 16):
            logits = runner.prefill(slot, begin, np.array(prompt[begin : begin + 16], dtype=np.int64)).copy()
        kept.append(logits)
        tokens.append([int(logits.argmax())])
    for step in range(steps):
        if step == steps // 2:
            runner.cache.move(len(tokens) - 1, 0, lengths[-1])
            tokens[0], lengths[0] = tokens.pop(), lengths.pop()
        last = np.array([row[-1] for row in tokens], dtype=np.int64)
        logits = runner.decode(np.array(lengths, dtype=np.int32), last).copy()
        kept.append(logits)
        for row, token in enumerate(logits.argmax(axis=1)):
            tokens[row].append(int(token))
            lengths[row] += 1
    return tokens, kept


def test_answers_are_those_of_the_graph(played: PlayedTensorRT, runner: TensorRTRunner, reference: OnnxRunner) -> None:
    """Chunked prefill, batched decode, a move between slots: the same tokens and logits as without a plan."""
    tokens, logits = generate(runner, 12)
    expected_tokens, expected = generate(reference, 12)
    assert tokens == expected_tokens
    for found, wanted in zip(logits, expected, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert len({token for row in tokens for token in row}) > 3


def test_decode_steps_are_launched_as_graphs(played: PlayedTensorRT, runner: TensorRTRunner) -> None:
    """Every batch size was captured when the plan was loaded, and a step is one launch; prefills are none."""
    calls = played.cuda.calls
    assert calls.count("cudaStreamBeginCapture") == calls.count("cudaGraphInstantiate") == 3
    before = len(calls)
    runner.prefill(0, 0, np.array([5, 6, 7], dtype=np.int64))
    assert "cudaGraphLaunch" not in calls[before:]
    for batch in (1, 2, 3, 2):
        before = len(calls)
        runner.decode(np.full(batch, 3, dtype=np.int32), np.full(batch, 9, dtype=np.int64))
        assert calls[before:] == ["cudaSetDevice", "cudaGraphLaunch", "cudaStreamSynchronize"]
    assert calls.count("cudaMalloc") == 4, "device buffers are allocated once"


def test_without_graphs_the_answers_are_the_same(
    played: PlayedTensorRT, folder: Path, reference: OnnxRunner, caplog: pytest.LogCaptureFixture
) -> None:
    """A plan that cannot be captured is served by plain executions, with a warning."""
    played.cuda.refuse_capture = True
    runner = TensorRTRunner(folder, EngineSettings.load(folder))
    assert "without CUDA graphs" in caplog.text
    assert generate(runner, 4)[0] == generate(reference, 4)[0]
    assert played.cuda.launches == 0
    runner.close()


def test_closing_gives_everything_back(played: PlayedTensorRT, folder: Path) -> None:
    """No allocation and no graph stays behind, also when loading fails half way."""
    runner = TensorRTRunner(folder, EngineSettings.load(folder))
    assert played.cuda.leaks == 6
    assert runner.cache.bytes_per_token() == 2 * 2 * 2 * 16 * 2
    runner.close()
    assert played.cuda.leaks == 0
    plan = folder / "model.plan"
    plan.write_bytes(b"x" * plan.stat().st_size)
    with pytest.raises(SettingsError, match="magicTag is wrong") as raised:
        TensorRTRunner(folder, EngineSettings.load(folder))
    assert str(raised.value).endswith(f"fathom-export plan chat --repository {folder.parent.parent} --precision fp16")
    assert played.cuda.leaks == 0


def test_a_plan_from_elsewhere_is_not_loaded(
    played: PlayedTensorRT, install: Callable[..., PlayedTensorRT], version: str, folder: Path
) -> None:
    """Another GPU, another graph, raised limits, no passport: one sentence with the command, before loading."""
    settings = EngineSettings.load(folder)
    other = install(version, capability=(8, 9), gpu="NVIDIA L4")
    with pytest.raises(SettingsError, match=r"built for the NVIDIA H100 .* but this is the NVIDIA L4 \(8\.9\)"):
        load_runner(folder, settings)
    assert not [call for call in other.stand_in.calls if call.startswith("Runtime")]
    install(version)
    with pytest.raises(SettingsError, match=r"no profile for input_ids \[9, 1\]"):
        load_runner(folder, replace(settings, limits=replace(settings.limits, max_batch=9)))
    with (folder / "model.onnx").open("ab") as graph:
        graph.write(b"\n")
    with pytest.raises(SettingsError, match="another ONNX file") as raised:
        load_runner(folder, settings)
    assert "\n" not in str(raised.value)
    (folder / "plan.json").unlink()
    with pytest.raises(SettingsError, match=r"plan\.json is missing; build the plan again: fathom-export plan chat"):
        load_runner(folder, settings)


def test_streamed_weights_get_a_budget(played: PlayedTensorRT, folder: Path) -> None:
    """A plan built for weight streaming is given the budget that TensorRT proposes."""
    assert main(["plan", "chat", "--repository", str(folder.parent.parent), "--weight-streaming"]) == 0
    assert PlanPassport.load(folder / "plan.json").options.weight_streaming
    TensorRTRunner(folder, EngineSettings.load(folder)).close()
    assert "ICudaEngine.weight_streaming_budget_v2 =" in played.stand_in.calls


def test_a_plan_of_another_form_is_refused(played: PlayedTensorRT, folder: Path) -> None:
    """A plan whose tensors are not the graph's is named with what differs."""
    settings = EngineSettings.load(folder)
    with pytest.raises(SettingsError, match=r"the plan's tensors differ from the graph's: past\.2\.key"):
        TensorRTRunner(folder, replace(settings, graph=replace(settings.graph, layers=3)))
    assert (folder / "model.plan").read_bytes().startswith(MAGIC)


def test_a_shape_without_a_profile_is_an_error(runner: TensorRTRunner) -> None:
    """More new tokens than any profile takes are refused before the GPU is asked."""
    with pytest.raises((DeviceError, ValueError)):
        runner.prefill(0, 0, np.arange(60, dtype=np.int64))


def test_without_a_plan_the_graph_itself_is_run(folder: Path) -> None:
    """The folder decides: no model.plan, no TensorRT."""
    (folder / "model.plan").unlink()
    adapter = load_runner(folder, EngineSettings.load(folder))
    assert isinstance(adapter, SlotRunnerAdapter)
    assert isinstance(adapter.runner, OnnxRunner)


def test_several_positions_logits_are_those_of_the_graph(folder: Path, reference: OnnxRunner, runner: object) -> None:
    """Drafted tokens are checked by logits of each of the last positions, one call each in a plan."""
    assert isinstance(runner, TensorRTRunner)
    tokens = np.array(PROMPTS[0][:6], dtype=np.int64)
    found, wanted = (each.prefill(1, 0, tokens, logits=3) for each in (runner, reference))
    assert found.shape == wanted.shape == (3, EngineSettings.load(folder).graph.vocabulary)
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert len(runner.prefill(1, 0, tokens, logits=0)) == 0
