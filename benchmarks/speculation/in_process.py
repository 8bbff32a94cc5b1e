"""Measured in this process: the engine itself, with nothing between."""

import threading
from pathlib import Path

from benchmarks.speculation.contender import Answer
from benchmarks.speculation.workloads import Job

from fathom_server.engine.engine import Engine
from fathom_server.engine.request import Piece
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.settings import EngineSettings
from fathom_server.engine.speculation.load import load_speculator
from fathom_server.errors import RequestError
from fathom_server.text.tokenizer import TextTokenizer


class EngineContender:
    """An engine in this process."""

    def __init__(self, folder: Path) -> None:
        settings = EngineSettings.load(folder)
        self.runner = load_runner(folder, settings)
        self.engine = Engine(self.runner, settings, TextTokenizer.load(folder), load_speculator(folder, settings))
        self.engine.start()

    def answer(self, job: Job) -> Answer:
        """Generate, and wait for the end."""
        sink = _Sink()
        self.engine.submit("job", job.prompt_ids, job.sampling, sink)
        return sink.wait()

    def counts(self) -> tuple[int, int] | None:
        """Drafted tokens tried and kept so far."""
        return self.engine.metrics.draft_tokens, self.engine.metrics.accepted_tokens

    def close(self) -> None:
        """Stop the engine."""
        self.engine.stop()


class _Sink:
    """Where an engine's answer goes."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.error: RequestError | None = None
        self.ended = threading.Event()

    def on_piece(self, piece: Piece) -> None:
        self.answer.add(piece.token_ids)
        if piece.is_last:
            self.ended.set()

    def on_error(self, error: RequestError) -> None:
        self.error = error
        self.ended.set()

    def wait(self) -> Answer:
        self.ended.wait()
        if self.error is not None:
            raise self.error
        return self.answer
