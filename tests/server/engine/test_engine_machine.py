"""Random requests, cancellations and priorities at a real engine: no slot lost, no token lost or doubled."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from tests.server.engine.conftest import Answer
from tests.server.engine.test_engine import wait_until_idle

from fathom_export.decoder import build_decoder, eos_token_ids
from fathom_server.engine.engine import Engine
from fathom_server.engine.request import Request
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineLimits, EngineSettings
from fathom_server.errors import CancelledRequestError
from fathom_server.text.tokenizer import TextTokenizer

SMALL = Path("examples/models/small").resolve()
PROMPTS = [[40 + place] * length for place, length in enumerate((1, 5, 31, 32, 33, 64, 90))]
LONGEST_ANSWER = 40
CONTEXT = 160

LIMITS = EngineLimits(max_batch=4, max_context=CONTEXT, max_queue=100, prefill_chunk=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model in int8."""
    folder = tmp_path_factory.mktemp("small-int8")
    graph = build_decoder(SMALL, folder, dialect="cpu", precision="int8", max_context=CONTEXT)
    EngineSettings(graph=graph, limits=LIMITS, eos_token_ids=eos_token_ids(SMALL)).save(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SMALL / name, folder)
    return folder


@pytest.fixture(scope="module")
def machine(folder: Path) -> Iterator[type[RuleBasedStateMachine]]:
    """A state machine over an engine whose cache holds two full contexts, so that it is often full."""
    settings_ = replace(EngineSettings.load(folder), limits=replace(LIMITS, kv_cache_tokens=2 * CONTEXT))
    engine = Engine(load_runner(folder, settings_), settings_, TextTokenizer.load(folder))
    engine.start()
    expected = {}
    for temperature in (0.0, 1.0):
        for place, prompt in enumerate(PROMPTS):
            answer = Answer()
            engine.submit("alone", prompt, sampling(LONGEST_ANSWER, temperature), answer)
            expected[place, temperature] = answer.wait().token_ids

    class EngineMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[tuple[Request, Answer, tuple[int, float], int]] = []

        @rule(
            place=st.integers(0, len(PROMPTS) - 1),
            temperature=st.sampled_from((0.0, 1.0)),
            tokens=st.integers(1, LONGEST_ANSWER),
            priority=st.integers(-1, 1),
            client=st.sampled_from("abc"),
        )
        def ask(self, place: int, temperature: float, tokens: int, priority: int, client: str) -> None:
            answer = Answer()
            request = engine.submit(
                "test", PROMPTS[place], sampling(tokens, temperature), answer, priority=priority, client=client
            )
            self.asked.append((request, answer, (place, temperature), tokens))

        @precondition(lambda self: self.asked)
        @rule(chance=st.integers(0, 1000))
        def cancel(self, chance: int) -> None:
            engine.cancel(self.asked[chance % len(self.asked)][0])

        @precondition(lambda self: self.asked)
        @rule(chance=st.integers(0, 1000))
        def wait(self, chance: int) -> None:
            self.check(*self.asked.pop(chance % len(self.asked)))

        def check(self, request: Request, answer: Answer, key: tuple[int, float], tokens: int) -> None:
            answer.wait()
            if answer.error is None:
                assert answer.token_ids == expected[key][:tokens]
                assert answer.finish_reason == "length"
            else:
                assert isinstance(answer.error, CancelledRequestError)
                assert request.cancelled
                assert answer.token_ids == expected[key][: len(answer.token_ids)]

        def teardown(self) -> None:
            for asked in self.asked:
                self.check(*asked)
            wait_until_idle(engine)

    yield EngineMachine
    engine.stop()


def sampling(tokens: int, temperature: float) -> SamplingParameters:
    return SamplingParameters(max_tokens=tokens, temperature=temperature, seed=7, ignore_eos=True)


def test_engine_machine(machine: type[RuleBasedStateMachine]) -> None:
    """Whatever comes in whatever order, each answer is the one that its request gets alone, or its beginning."""
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=30, deadline=None))
