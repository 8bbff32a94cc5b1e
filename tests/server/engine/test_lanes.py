"""One model in two precisions: who goes where, and that a lane answers what its precision alone would."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.server.engine.conftest import Answer

from fathom_server.engine.engine import Engine
from fathom_server.engine.lanes import FAST, FEW, MAIN, MANY, Lanes
from fathom_server.engine.runner.lanes import LaneRunner
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineSettings
from fathom_server.errors import InvalidRequestError
from fathom_server.native.library import SWITCH, library_path
from fathom_server.text.tokenizer import TextTokenizer

needs_operators = pytest.mark.skipif(library_path() is None, reason="Fathom's operators are not built here")
BOTH = Lanes(["int8", "int4"])
PROMPTS = [f"Add {number} and {number + 7}. Then count from 1 to 12 and say why." for number in range(12)]
BEGINNING = "Read this with care, for it is the same for everybody, word for word, and longer than a block or two. " * 2


@pytest.fixture(scope="module")
def folder(graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version's folder with both lanes, as the profile adaptive writes it."""
    main = tmp_path_factory.mktemp("adaptive") / "1"
    shutil.copytree(graphs["cpu int8"], main)
    shutil.copytree(graphs["cpu int4"], main / "int4")
    replace(EngineSettings.load(main), fast_lane="int4").save(main)
    return main


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    """An engine over both lanes."""
    yield from serve(folder)


def serve(folder: Path) -> Iterator[Engine]:
    """An engine over a folder, until the test is done."""
    settings = EngineSettings.load(folder)
    engine = Engine(load_runner(folder, settings), settings, TextTokenizer.load(folder))
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def ask(engine: Engine, folder: Path, prompts: list[str], precisions: list[str | None]) -> list[Answer]:
    """Answers with log-probabilities, all asked for together."""
    tokenizer, answers = TextTokenizer.load(folder), []
    sampling = SamplingParameters(max_tokens=24, logprobs=0, ignore_eos=True)
    for number, (prompt, precision) in enumerate(zip(prompts, precisions, strict=True)):
        answers.append(Answer())
        ids = tokenizer.encode(BEGINNING + prompt)
        engine.submit(f"{number}", ids, sampling, answers[-1], precision=precision)
    return [answer.wait() for answer in answers]


def bits(answer: Answer) -> list[tuple[int, float | None]]:
    """Tokens and their log-probabilities."""
    assert answer.error is None, answer.error
    return [(choice.token, choice.logprob) for piece in answer.pieces for choice in piece.choices]


@needs_operators
def test_each_lane_answers_as_its_precision_alone(engine: Engine, graphs: dict[str, Path], folder: Path) -> None:
    """Lanes mixed in every step, with shared beginnings: each answer has the bits that its precision gives alone."""
    pins: list[str | None] = ["int8", "int4"] * (len(PROMPTS) // 2)
    mixed = [bits(answer) for answer in ask(engine, folder, PROMPTS, pins)]
    swapped = [bits(answer) for answer in ask(engine, folder, PROMPTS, pins[::-1])]
    for precision in ("int8", "int4"):
        for single in serve(graphs[f"cpu {precision}"]):
            alone = [bits(answer) for answer in ask(single, folder, PROMPTS, [precision] * len(PROMPTS))]
        for place, expected in enumerate(alone):
            assert (mixed if pins[place] == precision else swapped)[place] == expected
    assert mixed != swapped


@needs_operators
def test_the_load_chooses_where_nobody_asks(engine: Engine, folder: Path) -> None:
    """One request runs on the fast lane, many at once on the main one; the metrics say how many went where."""
    before = dict(engine.metrics.by_precision)
    ask(engine, folder, PROMPTS[:1], [None])
    assert engine.metrics.by_precision["int4"] - before["int4"] == 1
    many = (PROMPTS * 4)[: 3 * MANY]
    ask(engine, folder, many, [None] * len(many))
    assert engine.metrics.by_precision["int8"] - before["int8"] >= MANY
    assert sum(engine.metrics.by_precision.values()) - sum(before.values()) == 1 + len(many)


@needs_operators
def test_a_precision_that_is_not_there_is_refused(engine: Engine, folder: Path) -> None:
    """The refusal names what there is."""
    with pytest.raises(InvalidRequestError, match=r"precision is 'fp64'.*valid: int8, int4"):
        engine.submit("one", [1, 2, 3], SamplingParameters(), Answer(), precision="fp64")


@needs_operators
def test_without_operators_the_main_lane_answers_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stock graph serves the main precision, and the log says what is missing."""
    monkeypatch.setenv(SWITCH, "0")
    runner = load_runner(folder, EngineSettings.load(folder))
    assert not isinstance(runner, LaneRunner)
    assert "int8 answers alone" in caplog.text


@pytest.mark.parametrize(
    ("running", "waiting", "lane"),
    [
        ([], 1, FAST),
        ([MAIN] * (FEW - 1), 1, FAST),
        ([], MANY, MAIN),
        ([FAST] * (MANY - 1), 1, MAIN),
        ([MAIN] * FEW, 2, MAIN),
        ([FAST] * FEW, 2, FAST),
        ([], MANY - 1, FAST),
    ],
)
def test_a_newcomer_goes_where_the_load_says(running: list[int], waiting: int, lane: int) -> None:
    """Few are fast lane's, many the main one's, and between the two most decide."""
    assert BOTH.choose(running, waiting) == lane
    assert Lanes(["int8"]).choose(running, waiting) == MAIN
