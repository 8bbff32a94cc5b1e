"""The cuda dialect on a real GPU: its logits, its CUDA graphs and its reduced logits, against the CPU's fp32 graph.

Run it where there are a GPU and onnxruntime-gpu: pytest -m gpu tests/gpu.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fathom_export.decoder import build_decoder, eos_token_ids
from fathom_server.engine.runner.base import StepRow
from fathom_server.engine.runner.cuda_device import cuda_fault
from fathom_server.engine.runner.cuda_onnx import CudaOnnxRunner
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.runner.onnx import OnnxRunner
from fathom_server.engine.settings import EngineLimits, EngineSettings

MODEL = Path(__file__).parents[2] / "examples" / "models" / "large"
CONTEXT, BATCH, TOKENS = 1024, 20, 60
LEAST_COSINE = {"fp16": 0.999, "fp8": 0.98}

REASON = cuda_fault("fp8")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(REASON is not None, reason=REASON or "a GPU is here"),
    pytest.mark.skipif(not (MODEL / "model.safetensors").is_file(), reason="no weights; run make models first"),
]


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[int]], npt.NDArray[np.float32]]:
    """Logits of every position of a text by the fp32 graph on the CPU."""
    folder = tmp_path_factory.mktemp("cpu")
    graph = build_decoder(MODEL, folder, dialect="cpu", precision="fp32", max_context=context())
    runner = OnnxRunner(folder, EngineSettings(graph, EngineLimits(max_batch=1, max_context=graph.max_context)))
    return lambda text: runner.prefill(0, 0, np.array(text), len(text)).copy()


@pytest.fixture(scope="module", params=["fp16", "fp8"])
def gpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, CudaOnnxRunner]:
    """The runner in both precisions."""
    folder = tmp_path_factory.mktemp("cuda")
    graph = build_decoder(MODEL, folder, dialect="cuda", precision=request.param, max_context=context())
    settings = EngineSettings(graph, EngineLimits(max_batch=BATCH, max_context=graph.max_context), eos_token_ids(MODEL))
    runner = load_runner(folder, settings)
    assert isinstance(runner, CudaOnnxRunner)
    return request.param, runner


def context() -> int:
    """The context of the test, as far as the model reaches."""
    from fathom_export.decoder.architecture import DecoderArchitecture

    return min(CONTEXT, DecoderArchitecture.load(MODEL).max_positions)


def texts(count: int, length: int) -> list[list[int]]:
    """Random texts of the model's first tokens."""
    return np.random.default_rng(5).integers(0, 300, (count, length)).tolist()  # type: ignore[no-any-return]


def cosines(some: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Cosine similarity of each row to its counterpart."""
    return (some * others).sum(axis=-1) / np.linalg.norm(some, axis=-1) / np.linalg.norm(others, axis=-1)


def test_prompts_in_pieces_give_the_cpus_logits(gpu, cpu) -> None:
    """Two texts in mixed steps of uneven pieces, block by block out of order."""
    precision, runner = gpu
    size = runner.geometry.block_tokens
    length = min(size + 70, context())
    both = texts(2, length)
    found: list[list[npt.NDArray[np.float32]]] = [[], []]
    for begin, end in ((0, 3), (3, 4), (4, size + 2), (size + 2, length)):
        if begin >= length:
            continue
        logits = runner.step(
            [
                StepRow(blocks, begin, text[begin:end], min(end, length) - begin)
                for blocks, text in zip(([5, 1], [0, 7]), both, strict=True)
            ]
        )
        half = len(logits) // 2
        found[0].append(logits[:half].copy())
        found[1].append(logits[half:].copy())
    for text, pieces in zip(both, found, strict=True):
        assert cosines(np.concatenate(pieces), cpu(text)).mean() > LEAST_COSINE[precision]


def test_decode_by_cuda_graphs_goes_on_as_without(gpu) -> None:
    """Batches of every padding: the second and third run of a graph give what a run without it gives."""
    _, runner = gpu
    for batch in (1, 3, 4, 7, BATCH):
        rows = [StepRow([place], 0, text, 1) for place, text in enumerate(texts(batch, TOKENS))]
        runner.step(rows)
        for step in range(4):
            singles = [StepRow([place], TOKENS + step, [place + step], 1) for place in range(batch)]
            by_graph = runner.step(singles).copy()
            pair = [
                StepRow([place], TOKENS + step - 1, [max(0, place + step - 1), place + step], 1)
                for place in range(batch)
            ]
            if step:
                assert cosines(by_graph, runner.step(pair)).min() > 0.999


def test_reduced_logits_are_the_largest_of_all(gpu) -> None:
    """The same step both ways: equal values in their places, the same arg-max."""
    _, runner = gpu
    rows = [StepRow([place], 0, text, 1) for place, text in enumerate(texts(5, TOKENS))]
    whole, reduced = runner.step(rows).copy(), runner.step_reduced(rows)
    known = np.isfinite(reduced)
    assert (known.sum(axis=1) == runner.reduced_tokens).all()
    np.testing.assert_allclose(reduced[known], whole[known], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(reduced.argmax(axis=1), whole.argmax(axis=1))
