"""The twin's parts, without a server: what is drawn, when tokens are due, who is let in, what is refused."""

import random
import statistics
import time
from itertools import pairwise
from pathlib import Path
from queue import Queue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_client import protocol
from fathom_loadtest.content.synthetic import WORDS
from fathom_loadtest.errors import RefusedRequest, TwinError
from fathom_loadtest.twin import vocabulary
from fathom_loadtest.twin.admission import Admission
from fathom_loadtest.twin.distribution import Distribution
from fathom_loadtest.twin.faults import Fault, FaultRates
from fathom_loadtest.twin.metrics import TwinMetrics
from fathom_loadtest.twin.pacer import Pacer
from fathom_loadtest.twin.plan import AnswerPlan, Wishes, plan_answer
from fathom_loadtest.twin.settings import (
    EncoderTwin,
    GenerateTwin,
    TwinSettings,
    model_from_json,
    model_to_json,
)
from fathom_loadtest.twin.timeline import Timeline


def plan(tokens: int, *, itl_ms: str = "10", group: int = 1, fault: Fault | None = None, stall_s: float = 5.0):
    return AnswerPlan(0.05, Distribution.parse(itl_ms), tokens, group, "length", fault, stall_s)


def played(wanted: AnswerPlan, *, late_s: float = 0.0) -> list[tuple[float, int, str]]:
    """An answer's events: when, how many tokens, and what is left; each is looked at ``late_s`` after it is due."""
    timeline, events = Timeline(wanted, random.Random(1), 0.0), []
    while not events or events[-1][2] == "goes on":
        now_s = timeline.due_s + late_s
        events.append((now_s, *timeline.take(now_s)))
    return events


@pytest.mark.parametrize(
    ("text", "median"), [("25", 25.0), ("normal:25,3", 25.0), ("lognormal:25,10", 25 / (1 + 0.4**2) ** 0.5)]
)
def test_draws_have_the_mean_and_the_median_that_are_told(text: str, median: float) -> None:
    """Ten thousand draws of each kind agree with the distribution's mean, deviation and median."""
    distribution = Distribution.parse(text)
    rng = random.Random(5)
    draws = [distribution.draw(rng) for _ in range(10_000)]
    assert distribution.median == pytest.approx(median)
    assert statistics.fmean(draws) == pytest.approx(25.0, rel=0.02)
    assert statistics.median(draws) == pytest.approx(median, rel=0.02)
    assert statistics.pstdev(draws) == pytest.approx(distribution.stddev, rel=0.06)
    assert str(Distribution.parse(str(distribution))) == text


@pytest.mark.parametrize(
    "value", ["x", "normal:1", "normal:1,2,3", "poisson:3,1", True, None, [1, 2], -1, "normal:1,-2"]
)
def test_what_is_no_distribution_is_refused(value: object) -> None:
    """The message holds the value and the forms that there are."""
    with pytest.raises(TwinError, match=r"normal:MEAN,STDDEV|out of range"):
        Distribution.parse(value)


def test_tokens_keep_their_times() -> None:
    """The first token comes after the TTFT, each further one an ITL later, also after late responses."""
    times = [at for at, _, _ in played(plan(5))]
    assert times == pytest.approx([0.05, 0.06, 0.07, 0.08, 0.09])
    late = played(plan(5), late_s=0.025)
    assert [(round(at, 3), tokens) for at, tokens, _ in late] == [(0.075, 3), (0.105, 2)]


def test_tokens_of_a_response_travel_when_the_last_is_due() -> None:
    """After the first token three travel together, and the answer's ITL stays what was set."""
    events = played(plan(9, group=3))
    assert [tokens for _, tokens, _ in events] == [1, 3, 3, 2]
    assert events[-1][0] == pytest.approx(0.05 + 8 * 0.01)


@given(
    tokens=st.integers(1, 60),
    group=st.integers(1, 9),
    itl_ms=st.sampled_from(["0", "1", "normal:3,2", "lognormal:4,9"]),
    late_s=st.floats(0.0, 0.1),
)
def test_no_token_is_lost_or_said_twice(tokens: int, group: int, itl_ms: str, late_s: float) -> None:
    """However responses are grouped and delayed, an answer's tokens add up, its times grow and it ends once."""
    events = played(plan(tokens, itl_ms=itl_ms, group=group), late_s=late_s)
    assert sum(count for _, count, _ in events) == tokens
    assert [at for at, _, _ in events] == sorted(at for at, _, _ in events)
    assert [outcome for _, _, outcome in events] == ["goes on"] * (len(events) - 1) + ["ended"]


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("group", [1, 2])
def test_a_fault_comes_after_its_token(after: int, group: int) -> None:
    """A broken and a cut answer say what was due before, a stalled one pauses there and goes on."""
    for kind, outcome in (("break", "broken"), ("cut", "cut")):
        events = played(plan(10, group=group, fault=Fault(kind, after)))
        assert (sum(count for _, count, _ in events), events[-1][2]) == (after, outcome)
    events = played(plan(10, fault=Fault("stall", after)))
    assert [count for _, count, _ in events] == [1] * 10
    assert events[-1][0] == pytest.approx(0.05 + 9 * 0.01 + 5.0)
    pauses = [later - earlier for earlier, later in pairwise([0.0, *(at for at, _, _ in events)])]
    assert pauses.index(max(pauses)) == after


def test_a_fault_beyond_the_answer_never_comes() -> None:
    """An answer that is shorter than the fault's place ends well."""
    assert played(plan(4, fault=Fault("break", 4)))[-1][2] == "ended"


def test_the_same_seed_draws_the_same_faults() -> None:
    """Shares come true, and a second look at the same requests finds the same of each."""
    settings = GenerateTwin(errors={"INTERNAL": 0.2}, stall_rate=0.1, break_rate=0.1, cut_rate=0.1)

    def outcome(number: int) -> str:
        try:
            fault = plan_answer(settings, Wishes(20), {}, random.Random(f"7/{number}")).fault
        except RefusedRequest as refusal:
            return refusal.code
        return "none" if fault is None else fault.kind

    found = [outcome(number) for number in range(4000)]
    assert found == [outcome(number) for number in range(4000)]
    assert found.count("INTERNAL") / 4000 == pytest.approx(0.2, abs=0.02)
    for kind in ("stall", "break", "cut"):
        assert found.count(kind) / 4000 == pytest.approx(0.8 * 0.1, abs=0.02)


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        (Wishes(), (30, "stop")),
        (Wishes(max_tokens=10), (10, "length")),
        (Wishes(max_tokens=30), (30, "length")),
        (Wishes(max_tokens=100), (30, "stop")),
        (Wishes(max_tokens=100, min_tokens=50), (50, "stop")),
        (Wishes(max_tokens=100, ignore_eos=True), (100, "length")),
    ],
)
def test_an_answer_ends_as_the_request_wants(wishes: Wishes, expected: tuple[int, str]) -> None:
    """max_tokens cuts, min_tokens lengthens, ignore_eos goes on to the limit; the finish reason says which."""
    found = plan_answer(GenerateTwin(output_tokens=Distribution(30)), wishes, {}, random.Random(1))
    assert (found.tokens, found.finish_reason) == expected


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"twin_tftt_ms": 3}, "'twin_tftt_ms' is no input or parameter .* twin_ttft_ms"),
        ({"twin_ttft_ms": "soon"}, "twin_ttft_ms: 'soon' is not a number"),
        ({"twin_error": "FATAL"}, "twin_error: 'FATAL' is no gRPC code .* UNAVAILABLE"),
        ({"twin_tokens_per_response": 0}, "twin_tokens_per_response is 0; .* at least 1"),
        ({"twin_stall_after_tokens": 1, "twin_cut_after_tokens": 2}, "one fault"),
    ],
)
def test_wrong_parameters_are_refused_by_name(parameters: dict[str, object], message: str) -> None:
    """The refusal is INVALID_ARGUMENT and names the parameter, its value and what it may be."""
    with pytest.raises(RefusedRequest, match=message) as caught:
        plan_answer(GenerateTwin(), Wishes(), parameters, random.Random(1))
    assert caught.value.code == "INVALID_ARGUMENT"


def test_slots_and_queue_are_bounded_and_first_come_first_served() -> None:
    """Two run, two wait, the fifth is refused; who leaves lets in the one that waited longest."""
    admission: Admission[str] = Admission(2, 2)
    assert [admission.enter(name) for name in "abcd"] == [True, True, False, False]
    with pytest.raises(RefusedRequest, match="the queue is full") as caught:
        admission.enter("e")
    assert caught.value.code == "UNAVAILABLE"
    assert admission.leave("c") is None
    assert admission.load() == (2, 1)
    assert admission.leave("b") == "d"
    assert (admission.leave("a"), admission.leave("d"), admission.load()) == (None, None, (0, 0))


class Told:
    """Where the twin's refusals go: it remembers when they came."""

    def __init__(self) -> None:
        self.asked_s = time.monotonic()
        self.told_s: Queue[float] = Queue()

    def fail(self, refusal: RefusedRequest) -> None:
        self.told_s.put(time.monotonic())


def test_no_refusal_leaves_before_its_time() -> None:
    """However early its threads set out, the twin refuses as late as the engine does, for Triton's sake."""
    pacer, callers = Pacer(1, 1, TwinMetrics(), 1), []
    for _ in range(100):
        callers.append(Told())
        pacer.refuse(callers[-1], RefusedRequest("INVALID_ARGUMENT", "no"))  # type: ignore[arg-type]
        time.sleep(0.0002)
    delays = [caller.told_s.get(timeout=20) - caller.asked_s for caller in callers]
    pacer.close()
    assert min(delays) >= protocol.REFUSE_AFTER_S


@given(st.text())
def test_any_text_comes_back_from_its_ids(text: str) -> None:
    """Token ids hold a text whole, whatever it is made of."""
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_a_word_is_a_token() -> None:
    """The load test's synthetic words cost one token each, so that prompts have exactly the wished length."""
    assert len(vocabulary.encode(" ".join(WORDS))) == len(WORDS)
    speech = vocabulary.Speech(30)
    assert vocabulary.encode(speech.text(0, 40).decode()) == speech.ids(0, 40)
    assert speech.text(0, 7) + speech.text(7, 9) == speech.text(0, 16)


def test_ids_that_are_none_are_refused() -> None:
    """An id outside the vocabulary is named."""
    with pytest.raises(RefusedRequest, match="64 is no token id"):
        vocabulary.decode([64])


def test_settings_survive_the_way_into_triton() -> None:
    """What config.pbtxt carries is the very settings, an endless stall and labels among them."""
    for model in (
        GenerateTwin("a", Distribution.parse("lognormal:3,1"), errors={"INTERNAL": 0.5}),
        GenerateTwin("b", stall_s=3.5, stall_rate=0.25, tokens_per_response=4),
        EncoderTwin("c", "classify", labels=("x", "y", "z")),
    ):
        assert model_from_json(model_to_json(model)) == model


FILE = """
seed = 4

[[models]]
name = "chat"
ttft_ms = 20
itl_ms = "lognormal:8,2"
errors = { UNAVAILABLE = 0.01, INTERNAL = 0.02 }

[[models]]
name = "ranker"
task = "rerank"
latency_ms = 3.5
"""


def test_a_file_of_settings_is_read(tmp_path: Path) -> None:
    """Each table becomes a model with what it sets, and the defaults for the rest."""
    path = tmp_path / "twin.toml"
    path.write_text(FILE)
    settings = TwinSettings.load(path)
    chat, ranker = settings.models
    assert settings.seed == 4
    assert chat == GenerateTwin(
        ttft_ms=Distribution(20),
        itl_ms=Distribution(8, 2, "lognormal"),
        errors={"UNAVAILABLE": 0.01, "INTERNAL": 0.02},
    )
    assert ranker == EncoderTwin("ranker", "rerank", Distribution(3.5))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed = ", "twin.toml: is not TOML"),
        ("sead = 1", "twin.toml: 'sead' is unknown; valid: seed, models"),
        ("seed = -1\n[[models]]", "twin.toml: seed is -1"),
        ("models = 3", "twin.toml: models must be"),
        ("seed = 1", "twin.toml: there are no models"),
        ("[[models]]\ntask = 'chat'", r"models\[0\]: task is 'chat'; valid: generate, embed"),
        ("[[models]]\nttft = 3", r"models\[0\]: 'ttft' is unknown; valid: .*ttft_ms"),
        ("[[models]]\nttft_ms = 'fast'", r"models\[0\]: ttft_ms: 'fast' is not a number"),
        ("[[models]]\nmax_batch = 0", r"models\[0\]: max_batch is 0; .* at least 1"),
        ("[[models]]\nname = 'a/b'", r"models\[0\]: name is 'a/b'"),
        ("[[models]]\nerrors = 0.5", r"models\[0\]: errors: 0.5 is no table"),
        ("[[models]]\nerrors = { OOPS = 0.5 }", r"models\[0\]: 'OOPS' is no gRPC code"),
        ("[[models]]\nerrors = { INTERNAL = 1.5 }", r"models\[0\]: errors.INTERNAL is 1.5"),
        ("[[models]]\nstall_rate = 0.6\ncut_rate = 0.6", "add up to 1.2"),
        ("[[models]]\nstall_s = 0", "stall_s is 0"),
        ("[[models]]\n[[models]]", "two models are called 'chat'"),
        ("[[models]]\n[[models]]\nname='chat_tokenizer'\ntask='embed'", "two models are called 'chat_tokenizer'"),
    ],
)
def test_wrong_settings_are_refused_with_file_key_and_value(tmp_path: Path, content: str, message: str) -> None:
    """Nothing starts over settings that cannot be meant."""
    path = tmp_path / "twin.toml"
    path.write_text(content)
    with pytest.raises(TwinError, match=message):
        TwinSettings.load(path)


def test_settings_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """The path and the reason stand in the message."""
    with pytest.raises(TwinError, match=r"none.toml: cannot be read \(No such file"):
        TwinSettings.load(tmp_path / "none.toml")


def test_rates_are_shares() -> None:
    """A rate that is no number is refused as one that is too large."""
    with pytest.raises(TwinError, match="stall_rate is True"):
        FaultRates({}, stall_rate=True)
