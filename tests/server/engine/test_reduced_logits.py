"""A runner that gives few logits is asked for them exactly where they choose the same tokens as all would."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.server.engine.conftest import Answer

from fathom_server.engine.engine import Engine
from fathom_server.engine.runner.base import CacheGeometry, Runner, StepRow
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineSettings
from fathom_server.engine.structured_output import StructuredOutput
from fathom_server.text.tokenizer import TextTokenizer

PROMPT = "Write a short answer: what is 12 plus 30?"


class FewLogits:
    """A CPU runner in front of which stands what a GPU's sampling graph does: only the largest logits come through."""

    reduced_tokens = 64

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.reduced_steps = self.whole_steps = 0

    @property
    def geometry(self) -> CacheGeometry:
        return self._runner.geometry

    def step(self, rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
        self.whole_steps += 1
        return self._runner.step(rows)

    def step_reduced(self, rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
        self.reduced_steps += 1
        logits = self._runner.step(rows).copy()
        if len(logits):
            least = np.partition(logits, -self.reduced_tokens, axis=1)[:, -self.reduced_tokens, None]
            logits[logits < least] = -np.inf
        return logits


def answer(engine: Engine, tokenizer: TextTokenizer, sampling: SamplingParameters) -> list[int]:
    """The tokens of an answer."""
    sink = Answer()
    engine.submit("one", tokenizer.encode(PROMPT), sampling, sink)
    assert sink.wait().error is None
    return sink.token_ids


@pytest.mark.parametrize(
    ("sampling", "is_reduced"),
    [
        (SamplingParameters(max_tokens=20, ignore_eos=True), True),
        (SamplingParameters(max_tokens=20, ignore_eos=True, temperature=0.9, top_k=20, seed=5), True),
        (SamplingParameters(max_tokens=20, ignore_eos=True, temperature=0.9, seed=5), False),
        (SamplingParameters(max_tokens=20, ignore_eos=True, temperature=0.9, top_k=200, seed=5), False),
        (SamplingParameters(max_tokens=20, ignore_eos=True, logprobs=2), False),
        (SamplingParameters(max_tokens=20, ignore_eos=True, repetition_penalty=1.3), False),
        (SamplingParameters(max_tokens=20, structured_outputs=StructuredOutput("regex", "[a-z]{1,9}")), False),
    ],
    ids=["greedy", "top_k", "sampled", "wide top_k", "logprobs", "penalty", "structure"],
)
def test_few_logits_choose_what_all_would(
    graphs: dict[str, Path],
    tokenizer: TextTokenizer,
    start_engine: Callable[..., Engine],
    sampling: SamplingParameters,
    is_reduced: bool,
) -> None:
    """The same tokens with few logits as with all, and all are fetched where few would not do."""
    settings = EngineSettings.load(graphs["cpu int8"])
    runner = FewLogits(load_runner(graphs["cpu int8"], settings))
    engine = Engine(runner, settings, tokenizer)
    engine.start()
    try:
        warm = runner.whole_steps
        found = answer(engine, tokenizer, sampling)
    finally:
        engine.stop()
    assert found == answer(start_engine("cpu int8"), tokenizer, sampling)
    assert (runner.reduced_steps > 0, runner.whole_steps > warm) == (is_reduced, not is_reduced)
