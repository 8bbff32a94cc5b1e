"""A real plan on a real GPU: built by the command, held to the graph, and timed.

Run it where there are a GPU and TensorRT: pytest -m gpu tests/gpu.
"""

import importlib.util
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fathom_export.cli import main
from fathom_server.engine.plan_passport import PlanPassport
from fathom_server.engine.runner.onnx import OnnxRunner
from fathom_server.engine.runner.tensorrt import TensorRTRunner
from fathom_server.engine.settings import EngineSettings

MODEL = Path(__file__).parents[2] / "examples" / "models" / "large"
MAX_BATCH, CONTEXT, CHUNK, NEW_TOKENS = 8, 512, 128, 64


def missing() -> str | None:
    """Why no plan can be built here; None if one can."""
    for package in ("tensorrt", "cuda"):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed; run in NVIDIA's Triton or TensorRT container"
    from fathom_server.engine.runner.cuda import describe_runtime
    from fathom_server.errors import FathomServerError

    try:
        describe_runtime()
    except FathomServerError as error:
        return f"there is no usable GPU: {error}"
    if not (MODEL / "model.safetensors").is_file():
        return f"{MODEL} has no weights; run make models first"
    return None


REASON = missing()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(REASON is not None, reason=REASON or "a GPU is here"),
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our larger LLM in the portable dialect, with its fp16 plan."""
    repository = tmp_path_factory.mktemp("gpu") / "models"
    limits = ["--max-batch", str(MAX_BATCH), "--max-context", str(CONTEXT), "--prefill-chunk", str(CHUNK)]
    flags = ["--name", "chat", "--task", "generate", "--dialect", "portable", "--precision", "fp32", *limits]
    assert main([str(MODEL), *flags, "--repository", str(repository)]) == 0
    assert main(["plan", "chat", "--repository", str(repository), "--precision", "fp16"]) == 0
    return repository


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    """The version that holds graph and plan."""
    return repository / "chat" / "1"


def greedy(runner: Any, prompt: list[int]) -> list[int]:
    """A greedy answer of 64 tokens in slot 0."""
    for begin in range(0, len(prompt), CHUNK):
        logits = runner.prefill(0, begin, np.array(prompt[begin : begin + CHUNK], dtype=np.int64))
    tokens = [int(logits.argmax())]
    while len(tokens) < NEW_TOKENS:
        past = np.array([len(prompt) + len(tokens) - 1], dtype=np.int32)
        tokens.append(int(runner.decode(past, np.array(tokens[-1:], dtype=np.int64)).argmax()))
    return tokens


def test_the_plan_is_built_and_up_to_date(repository: Path, folder: Path) -> None:
    """The real builder makes a plan whose passport names this machine; a second command builds nothing."""
    from fathom_server.engine.runner.cuda import describe_runtime

    passport = PlanPassport.load(folder / "plan.json")
    assert passport.built_with == describe_runtime()
    assert passport.plan_bytes == (folder / "model.plan").stat().st_size
    before = (folder / "model.plan").stat().st_mtime_ns
    assert main(["plan", "chat", "--repository", str(repository), "--precision", "fp16"]) == 0
    assert (folder / "model.plan").stat().st_mtime_ns == before


def test_the_plans_answers_are_the_graphs(folder: Path) -> None:
    """Greedy tokens in fp16 on the GPU against fp32 on the CPU: the first logits agree, and so do most tokens."""
    settings = EngineSettings.load(folder)
    vocabulary = settings.graph.vocabulary
    plan = TensorRTRunner(folder, settings)
    graph = OnnxRunner(folder, replace(settings, limits=replace(settings.limits, max_batch=1)))
    rng = np.random.default_rng(0)
    same = 0
    for length in (1, 17, 200):
        prompt = [int(token) for token in rng.integers(0, vocabulary, length)]
        first = plan.prefill(0, 0, np.array(prompt[:CHUNK], dtype=np.int64)).copy()
        wanted = graph.prefill(0, 0, np.array(prompt[:CHUNK], dtype=np.int64)).copy()
        cosine = float((first * wanted).sum() / np.linalg.norm(first) / np.linalg.norm(wanted))
        assert cosine > 0.999
        found, expected = greedy(plan, prompt), greedy(graph, prompt)
        same += sum(a == b for a, b in zip(found, expected, strict=True))
    assert same >= 0.9 * 3 * NEW_TOKENS


def test_company_changes_no_token(folder: Path) -> None:
    """A row decodes to the same tokens alone and among others of one profile."""
    settings = EngineSettings.load(folder)
    runner = TensorRTRunner(folder, settings)
    prompt = [3, 5, 7, 11]
    answers = []
    for batch in (2, MAX_BATCH):
        tokens = [int(runner.prefill(0, 0, np.array(prompt, dtype=np.int64)).argmax())]
        for slot in range(1, batch):
            runner.prefill(slot, 0, np.array([slot, 2], dtype=np.int64))
        past = np.array([len(prompt)] + [2] * (batch - 1), dtype=np.int32)
        for _ in range(NEW_TOKENS):
            row = np.array([tokens[-1]] + [1] * (batch - 1), dtype=np.int64)
            tokens.append(int(runner.decode(past, row)[0].argmax()))
            past += 1
        answers.append(tokens)
    assert answers[0] == answers[1]


def test_speed_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps are timed and printed, with the machine; no time is asserted."""
    settings = EngineSettings.load(folder)
    runner = TensorRTRunner(folder, settings)
    lines = [f"{PlanPassport.load(folder / 'plan.json').built_with}"]
    chunk = np.zeros(CHUNK, dtype=np.int64)
    steps = {f"prefill of {CHUNK}": partial(runner.prefill, 0, 0, chunk)}
    for batch in (1, 2, 4, MAX_BATCH):
        past, last = np.full(batch, 99, np.int32), np.zeros(batch, np.int64)
        steps[f"decode of {batch}"] = partial(runner.decode, past, last)
    for name, step in steps.items():
        step()
        begin = time.perf_counter()
        for _ in range(50):
            step()
        lines.append(f"{name}: {(time.perf_counter() - begin) / 50 * 1e3:.3f} ms")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert len(lines) == 6
