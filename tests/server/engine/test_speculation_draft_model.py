"""A draft model: answers are the same with and without it, and its cache holds nothing for who has gone."""

import json
import logging
import math
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fathom_export.decoder import build_decoder, eos_token_ids
from fathom_server.engine.runner.base import CacheGeometry, Runner, StepRow
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.sampler import SequenceSampler, sample
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineLimits, EngineSettings, GraphDescription, SpeculationSettings
from fathom_server.engine.speculation.draft_model import DraftModelSpeculator
from fathom_server.engine.speculation.load import load_speculator
from fathom_server.engine.speculation.prompt_lookup import PromptLookupSpeculator
from fathom_server.engine.speculator import Speculator
from fathom_server.errors import SettingsError
from fathom_server.text.tokenizer import TextTokenizer

EXAMPLES = Path("examples/models").resolve()
BATCH = 8
CONTEXT = 512
ANSWER_TOKENS = 48

GREEDY = SamplingParameters()
SAMPLED = SamplingParameters(temperature=0.8, top_p=0.9, seed=11)
PENALISED = SamplingParameters(temperature=0.7, repetition_penalty=1.1, presence_penalty=0.3, seed=5)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of `large`, with `small` as its draft model."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("large", "small"):
        folder = root / name / "1"
        folder.mkdir(parents=True)
        graph = build_decoder(EXAMPLES / name, folder, dialect="cpu", precision="fp32", max_context=CONTEXT)
        limits = EngineLimits(max_batch=BATCH, max_context=CONTEXT, threads=1)
        speculation = SpeculationSettings("draft", "small", 4) if name == "large" else SpeculationSettings()
        EngineSettings(graph, limits, eos_token_ids(EXAMPLES / name), speculation).save(folder)
        shutil.copy(EXAMPLES / name / "tokenizer.json", folder)
    return root


@pytest.fixture(scope="module")
def settings(repository: Path) -> EngineSettings:
    """Those of `large`."""
    return EngineSettings.load(repository / "large" / "1")


@pytest.fixture(scope="module")
def target(repository: Path, settings: EngineSettings) -> Runner:
    """The runner of `large`."""
    return load_runner(repository / "large" / "1", settings)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Held-out questions, one of each task and a second of one, as `large` reads them."""
    tokenizer = TextTokenizer.load(EXAMPLES / "large")
    rows = [json.loads(line) for line in (EXAMPLES / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]
    return [tokenizer.encode_messages(rows[at]["messages"]) for at in (3, 150, 300, 440, 580, 720, 860, 870)]


@dataclass(eq=False)
class Generation:
    """A sequence in the loop below."""

    id: int
    token_ids: list[int]
    prompt_tokens: int
    sampling: SamplingParameters
    sampler: SequenceSampler
    block: int
    computed: int = 0
    tried: list[int] = field(default_factory=list)
    ended: bool = False

    def uniform(self, position: int) -> float:
        return self.sampler.uniform(position)

    @property
    def answer(self) -> list[int]:
        return self.token_ids[self.prompt_tokens :]


def generate(
    runner: Runner,
    speculator: Speculator | None,
    prompts: Sequence[list[int]],
    sampling: SamplingParameters,
    vocabulary: int,
    seconds_per_draft: float = 0.0,
    ends: Collection[int] = (),
    most: int = ANSWER_TOKENS,
    spread: bool = False,
) -> list[Generation]:
    """Answers of at most ``most`` tokens from a loop that does what the engine does; ``spread`` draws each apart.

    Steps are said to take a second, and so much longer for each drafted token: what is tried depends on no clock.
    """
    running = [
        Generation(
            number,
            list(prompt),
            len(prompt),
            sampling,
            SequenceSampler(sampling, prompt, vocabulary, (), number if spread else 0),
            number % runner.geometry.blocks,
        )
        for number, prompt in enumerate(prompts)
    ]
    active = running
    while active:
        decoding = [one for one in active if one.answer]
        drafts: list[list[int]] = [[] for _ in decoding]
        if speculator is not None and decoding:
            room = [most - len(one.answer) - 1 for one in decoding]
            drafts = speculator.propose(decoding, room)
            assert all(len(tokens) <= most for tokens, most in zip(drafts, room, strict=True))
        by_id = dict(zip((one.id for one in decoding), drafts, strict=True))
        rows = []
        for one in active:
            tried = by_id.get(one.id, [])
            rows.append(StepRow([one.block], one.computed, one.token_ids[one.computed :] + tried, 1 + len(tried)))
        logits = runner.step(rows).copy()
        if speculator is not None:
            speculator.observe_step(
                sum(len(row.token_ids) for row in rows), 1.0 + seconds_per_draft * sum(map(len, drafts))
            )
        end = 0
        for one, row in zip(active, rows, strict=True):
            begin, end = end, end + row.logits
            tried = by_id.get(one.id, [])
            one.computed = len(one.token_ids)
            for at in range(begin, end):
                (choice,) = sample(logits[at : at + 1], [one.sampler], [None])
                assert choice is not None
                one.token_ids.append(choice.token)
                one.sampler.append(choice.token)
                one.ended = choice.token in ends or len(one.answer) >= most
                if one.ended or at - begin >= len(tried) or choice.token != tried[at - begin]:
                    break
                one.computed += 1
            one.tried.append(len(tried))
            if tried and speculator is not None:
                speculator.observe(one, len(tried), at - begin)
        for one in active:
            if one.ended and speculator is not None:
                speculator.forget(one)
        active = [one for one in active if not one.ended]
    return running


@pytest.mark.parametrize("method", ["draft", "prompt_lookup"])
@pytest.mark.parametrize("count", [1, BATCH])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"])
def test_answers_are_the_same_with_and_without(
    repository: Path,
    settings: EngineSettings,
    target: Runner,
    prompts: list[list[int]],
    sampling: SamplingParameters,
    count: int,
    method: str,
) -> None:
    """Token for token, for one request and in a batch, greedy and sampled; and some drafts did come true."""
    chosen = [prompt * 2 for prompt in prompts] if method == "prompt_lookup" else prompts
    vocabulary = settings.graph.vocabulary
    seeded = [replace(sampling, seed=None if sampling.seed is None else sampling.seed + at) for at in range(2)]
    for each in seeded:
        plain = generate(target, None, chosen[:count], each, vocabulary)
        if method == "draft":
            speculator = load_speculator(repository / "large" / "1", settings)
            assert isinstance(speculator, DraftModelSpeculator)
        else:
            speculator = PromptLookupSpeculator(4)
        drafted = generate(target, speculator, chosen[:count], each, vocabulary)
        assert [one.answer for one in drafted] == [one.answer for one in plain]
        assert speculator.counters.proposed_tokens > 0
        if method == "draft":
            assert speculator._cache.pool.held == 0
        speculator.close()


def test_drafts_come_true_often_in_answers(
    repository: Path, settings: EngineSettings, target: Runner, prompts: list[list[int]]
) -> None:
    """`small` guesses `large` well, greedy and, by the same random numbers, sampled: several tokens a step."""
    for sampling in (GREEDY, SAMPLED):
        speculator = load_speculator(repository / "large" / "1", settings)
        assert speculator is not None
        answers = generate(
            target, speculator, prompts, sampling, settings.graph.vocabulary, ends=settings.eos_token_ids
        )
        steps = sum(len(one.tried) for one in answers)
        assert speculator.counters.acceptance > 0.5
        assert sum(len(one.answer) for one in answers) / steps > 1.5
        speculator.close()


class Table:
    """A model of a few tokens whose next depends on the last alone: logits from a table, as a ``Runner``."""

    def __init__(self, logits: npt.NDArray[np.float32], blocks: int) -> None:
        self.logits = logits
        self.geometry = CacheGeometry(blocks, 64, shareable=False)

    def step(self, rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
        wanted = [row.token_ids[len(row.token_ids) - row.logits + at] for row in rows for at in range(row.logits)]
        return self.logits[wanted]


def test_sampled_answers_keep_their_distribution() -> None:
    """Answers of three tokens of five, drafted by a model that differs, are as often as the target alone has them."""
    random = np.random.default_rng(3)
    logits = random.uniform(-0.6, 0.6, (5, 5)).astype(np.float32)
    target = Table(logits, BATCH)
    draft = Table(logits + random.uniform(-1.0, 1.0, (5, 5)).astype(np.float32), BATCH)
    graph = GraphDescription("cpu", "fp32", 1, 1, 8, 5, 64)
    settings = EngineSettings(graph, EngineLimits(max_batch=BATCH, max_context=64))
    speculator = DraftModelSpeculator(draft, settings, settings, 3)
    counts, answers = np.zeros((5, 5, 5)), 12_000
    for seed in range(answers // BATCH):
        found = generate(
            target, speculator, [[0]] * BATCH, SamplingParameters(temperature=0.9, seed=seed), 5, most=3, spread=True
        )
        for one in found:
            counts[tuple(one.answer)] += 1
    assert speculator.counters.proposed_tokens > 0.9 * answers
    assert 0.4 < speculator.counters.acceptance < 0.95
    weights = np.exp(logits.astype(np.float64) / 0.9)
    next_token = weights / weights.sum(axis=1, keepdims=True)
    expected = answers * next_token[0][:, None, None] * next_token[:, :, None] * next_token[None, :, :]
    assert expected.min() > 3
    statistic = float(((counts - expected) ** 2 / expected).sum())
    degrees = counts.size - 1
    assert statistic < degrees + 3.1 * math.sqrt(2 * degrees), "p below 0.002"


def test_a_fault_of_the_draft_model_ends_the_drafting_alone(
    repository: Path,
    settings: EngineSettings,
    target: Runner,
    prompts: list[list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Requests go on as without a draft model, and the log says why."""

    class Failing(Table):
        steps = 0

        def step(self, rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
            self.steps += 1
            if self.steps == 5:
                raise RuntimeError("out of order")
            return super().step(rows)

    size = settings.graph.vocabulary
    failing = Failing(np.zeros((size, size), dtype=np.float32), BATCH)
    speculator = DraftModelSpeculator(failing, settings, settings, 4)
    plain = generate(target, None, prompts[:2], GREEDY, size)
    with caplog.at_level(logging.ERROR):
        assert [one.answer for one in generate(target, speculator, prompts[:2], GREEDY, size)] == [
            one.answer for one in plain
        ]
    assert failing.steps == 5
    assert "the draft model failed" in caplog.text
    assert "out of order" in caplog.text


def test_logits_that_are_not_finite_are_not_drafted_from(settings: EngineSettings) -> None:
    """A broken draft model proposes nothing; it ends nobody's request."""
    size = settings.graph.vocabulary
    broken = Table(np.full((size, size), np.nan, dtype=np.float32), BATCH)
    speculator = DraftModelSpeculator(broken, settings, settings, 4)
    sampler = SequenceSampler(GREEDY, [1], size, (), 0)
    text = Generation(1, [1, 2, 3], 1, GREEDY, sampler, 0)
    for _ in range(40):
        assert speculator.propose([text], [8]) == [[]]
        speculator.observe_step(1, 1.0)
        text.token_ids.append(4)


def test_vocabularies_of_other_sizes_fit(settings: EngineSettings) -> None:
    """A draft model of a smaller padded vocabulary drafts, but not for a prompt that holds tokens it has not."""
    size = settings.graph.vocabulary
    smaller = replace(settings, graph=replace(settings.graph, vocabulary=size - 10))
    table = np.zeros((size - 10, size - 10), dtype=np.float32)
    table[:, 7] = 9.0
    speculator = DraftModelSpeculator(Table(table, BATCH), smaller, settings, 4)
    biased = SamplingParameters(logit_bias=((size - 1, 5.0),))
    texts = [
        Generation(number, [token, 7], 1, biased, SequenceSampler(biased, [1], size, (), 0), 0)
        for number, token in enumerate((5, size - 3))
    ]
    speculator.propose(texts, [8, 8])
    speculator.observe_step(2, 1.0)
    for text in texts:
        text.token_ids.append(7)
    known, stranger = speculator.propose(texts, [8, 8])
    assert set(known) == {7}
    assert stranger == []


def test_a_draft_model_of_another_tokenizer_is_refused(repository: Path, settings: EngineSettings) -> None:
    """In one sentence that names both models, the first token that differs, and what to do."""
    other = repository / "other" / "3"
    shutil.copytree(repository / "small" / "1", other)
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    first, second = sorted(vocabulary, key=lambda token: vocabulary[token])[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    asked = replace(settings, speculation=SpeculationSettings("draft", "other"))
    with pytest.raises(SettingsError, match=r"other/3 has another tokenizer than .*large/1: token 300 is .* there and"):
        load_speculator(repository / "large" / "1", asked)
    (other / "tokenizer.json").write_text(
        (repository / "small" / "1" / "tokenizer.json").read_text(encoding="utf-8") + "\n", encoding="utf-8"
    )
    speculator = load_speculator(repository / "large" / "1", asked)
    assert speculator is not None, "the same tokens in another file do"
    speculator.close()


def test_settings_that_name_no_draft_model_are_refused(repository: Path, settings: EngineSettings) -> None:
    """A missing model, a method without its model and a model without its method; the message says what to do."""
    asked = replace(settings, speculation=SpeculationSettings("draft", "missing"))
    with pytest.raises(SettingsError, match=r"'missing', but .* holds no LLM; export that model"):
        load_speculator(repository / "large" / "1", asked)
    with pytest.raises(SettingsError, match="names no model; name one"):
        SpeculationSettings("draft")
    with pytest.raises(SettingsError, match="set that to 'draft', or leave draft out"):
        SpeculationSettings("prompt_lookup", "small")
    with pytest.raises(SettingsError, match="max_draft_tokens is 0; it must be between 1 and 32"):
        SpeculationSettings("prompt_lookup", max_draft_tokens=0)
    with pytest.raises(SettingsError, match="method is 'guess'; valid: none, prompt_lookup, draft"):
        SpeculationSettings("guess")  # type: ignore[arg-type]
    folder = repository / "small" / "1"
    assert EngineSettings.load(folder).speculation == SpeculationSettings()
    assert load_speculator(folder, EngineSettings.load(folder)) is None
