"""A real engine over a real graph: the `large` example model, exported once a session."""

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fathom_export.decoder import build_decoder, eos_token_ids
from fathom_server.engine.engine import Engine
from fathom_server.engine.request import Piece
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.settings import EngineLimits, EngineSettings
from fathom_server.errors import RequestError
from fathom_server.text.tokenizer import TextTokenizer

LARGE = Path("examples/models/large").resolve()
ANSWER_TIMEOUT_S = 120


class Answer:
    """A sink that remembers what came."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.error: RequestError | None = None
        self.first = threading.Event()
        self._ended = threading.Event()

    def on_piece(self, piece: Piece) -> None:
        assert not self._ended.is_set(), "a piece came after the end"
        self.pieces.append(piece)
        self.first.set()
        if piece.is_last:
            self._ended.set()

    def on_error(self, error: RequestError) -> None:
        assert not self._ended.is_set(), "an error came after the end"
        self.error = error
        self._ended.set()

    def wait(self) -> "Answer":
        assert self._ended.wait(ANSWER_TIMEOUT_S), "no end within the test's patience"
        return self

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def token_ids(self) -> list[int]:
        return [token for piece in self.pieces for token in piece.token_ids]

    def of(self, sequence: int) -> list[int]:
        """Tokens of one of several answers."""
        return [token for piece in self.pieces if piece.sequence == sequence for token in piece.token_ids]

    @property
    def finish_reason(self) -> str | None:
        return self.pieces[-1].finish_reason if self.pieces else None


def _export(folder: Path, dialect: str, precision: str, max_context: int) -> Path:
    graph = build_decoder(LARGE, folder, dialect=dialect, precision=precision, max_context=max_context)  # type: ignore[arg-type]
    limits = EngineLimits(max_context=max_context)
    EngineSettings(graph=graph, limits=limits, eos_token_ids=eos_token_ids(LARGE)).save(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(LARGE / name, folder)
    return folder


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the model in each form that the engine runs."""
    return {
        "cpu fp32": _export(tmp_path_factory.mktemp("cpu-fp32"), "cpu", "fp32", 2048),
        "cpu int8": _export(tmp_path_factory.mktemp("cpu-int8"), "cpu", "int8", 2048),
        "cpu int4": _export(tmp_path_factory.mktemp("cpu-int4"), "cpu", "int4", 2048),
        "portable fp32": _export(tmp_path_factory.mktemp("portable-fp32"), "portable", "fp32", 512),
    }


@pytest.fixture(scope="session")
def tokenizer() -> TextTokenizer:
    """The model's tokenizer."""
    return TextTokenizer.load(LARGE)


@pytest.fixture
def start_engine(graphs: dict[str, Path], tokenizer: TextTokenizer) -> Iterator[Callable[..., Engine]]:
    """Start engines with limits of the test's choice; they are stopped at its end."""
    started: list[Engine] = []

    def start(form: str = "cpu fp32", **limits: float) -> Engine:
        settings = EngineSettings.load(graphs[form])
        settings = replace(settings, limits=replace(settings.limits, **limits))  # type: ignore[arg-type]
        engine = Engine(load_runner(graphs[form], settings), settings, tokenizer)
        engine.start()
        started.append(engine)
        return engine

    yield start
    for engine in started:
        engine.stop()
