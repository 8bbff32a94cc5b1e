"""Speculation in the engine: the same answers, in fewer steps, and nothing left behind when requests end."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.server.engine.conftest import Answer

from fathom_export.decoder import build_decoder, eos_token_ids
from fathom_server.engine.engine import Engine
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineLimits, EngineSettings, SpeculationSettings
from fathom_server.engine.speculation.draft_model import DraftModelSpeculator
from fathom_server.engine.speculation.load import load_speculator
from fathom_server.engine.speculator import Speculator
from fathom_server.text.tokenizer import TextTokenizer

EXAMPLES = Path("examples/models").resolve()
CONTEXT = 512
METHODS = {
    "prompt_lookup": SpeculationSettings("prompt_lookup", max_draft_tokens=6),
    "draft": SpeculationSettings("draft", "small", 6),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`large` and `small` in int8."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("large", "small"):
        folder = root / name / "1"
        folder.mkdir(parents=True)
        graph = build_decoder(EXAMPLES / name, folder, dialect="cpu", precision="int8", max_context=CONTEXT)
        limits = EngineLimits(max_batch=8, max_context=CONTEXT, threads=1)
        EngineSettings(graph, limits, eos_token_ids(EXAMPLES / name)).save(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EXAMPLES / name / file, folder)
    return root


@pytest.fixture
def prompts(tokenizer: TextTokenizer) -> list[list[int]]:
    """Eight held-out questions, each asked again behind its answer."""
    rows = [json.loads(line) for line in (EXAMPLES / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        tokenizer.encode_messages(
            [*row["messages"], {"role": "assistant", "content": row["answer"]}, row["messages"][-1]]
        )
        for row in rows[7::125]
    ]


class Started:
    """An engine and its speculator; ``kv_cache_tokens`` makes its cache small."""

    def __init__(self, folder: Path, tokenizer: TextTokenizer, method: str | None, kv_cache_tokens: int = 0) -> None:
        settings = EngineSettings.load(folder)
        limits = replace(settings.limits, kv_cache_tokens=kv_cache_tokens)
        settings = replace(settings, limits=limits)
        if method is not None:
            settings = replace(settings, speculation=METHODS[method])
        self.speculator: Speculator | None = load_speculator(folder, settings)
        self.engine = Engine(load_runner(folder, settings), settings, tokenizer, self.speculator)
        self.engine.start()

    def answers(self, prompts: list[list[int]], sampling: SamplingParameters) -> list[Answer]:
        """Answers to all, together."""
        sinks = [Answer() for _ in prompts]
        for number, (prompt, sink) in enumerate(zip(prompts, sinks, strict=True)):
            seed = None if sampling.seed is None else sampling.seed + number
            self.engine.submit(f"request {number}", prompt, replace(sampling, seed=seed), sink)
        return [sink.wait() for sink in sinks]


@pytest.fixture
def engines(repository: Path, tokenizer: TextTokenizer) -> Iterator[dict[str, Started]]:
    """Without speculation and with each method."""
    folder = repository / "large" / "1"
    started = {"none": Started(folder, tokenizer, None), **{one: Started(folder, tokenizer, one) for one in METHODS}}
    yield started
    for one in started.values():
        one.engine.stop()


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParameters(max_tokens=40),
        SamplingParameters(max_tokens=40, ignore_eos=True),
        SamplingParameters(max_tokens=40, temperature=0.8, top_p=0.9, seed=3),
        SamplingParameters(max_tokens=40, temperature=1.0, n=3, frequency_penalty=0.5, seed=9, logprobs=2),
    ],
    ids=["greedy", "fixed length", "sampled", "several"],
)
def test_answers_are_the_same_alone_and_in_a_batch(
    engines: dict[str, Started], prompts: list[list[int]], sampling: SamplingParameters
) -> None:
    """Token for token and reason for reason, by every method; then nothing is held for anybody."""
    plain = engines["none"].answers(prompts, sampling)
    for method in METHODS:
        started = engines[method]
        together = started.answers(prompts, sampling)
        alone = [started.answers([prompt], replace(sampling, seed=seed))[0] for prompt, seed in own(prompts, sampling)]
        for found in (together, alone):
            for mine, wanted in zip(found, plain, strict=True):
                assert mine.error is None
                for sequence in range(sampling.n):
                    assert mine.of(sequence) == wanted.of(sequence)
                assert mine.finish_reason == wanted.finish_reason
        assert started.speculator is not None
        assert started.speculator.counters.proposed_tokens == started.engine.metrics.draft_tokens
        assert started.speculator.counters.accepted_tokens == started.engine.metrics.accepted_tokens
        assert started.engine.metrics.draft_tokens > 0
        assert not started.speculator._states  # type: ignore[attr-defined]
        if isinstance(started.speculator, DraftModelSpeculator):
            assert started.speculator._cache.pool.held == 0


def own(prompts: list[list[int]], sampling: SamplingParameters) -> list[tuple[list[int], int | None]]:
    """Prompts with the seeds that ``Started.answers`` gives them."""
    return [(prompt, None if sampling.seed is None else sampling.seed + at) for at, prompt in enumerate(prompts)]


@pytest.mark.parametrize("method", list(METHODS))
def test_answers_are_the_same_where_requests_are_preempted(
    repository: Path, tokenizer: TextTokenizer, engines: dict[str, Started], prompts: list[list[int]], method: str
) -> None:
    """In a cache that holds but a few of the requests, sequences lose their blocks and drafts and say the same."""
    sampling = SamplingParameters(max_tokens=300, ignore_eos=True)
    wanted = engines["none"].answers(prompts[:5], sampling)
    short = Started(repository / "large" / "1", tokenizer, method, kv_cache_tokens=CONTEXT + 128)
    try:
        found = short.answers(prompts[:5], sampling)
        assert [answer.token_ids for answer in found] == [answer.token_ids for answer in wanted]
        assert short.engine.metrics.draft_tokens > 0
        assert short.engine.metrics.preemptions > 0
    finally:
        short.engine.stop()
