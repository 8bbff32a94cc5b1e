"""A model's answers, computed by the engine that serves it, in this process."""

import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fathom_export.errors import ParityError
from fathom_server.engine.engine import Engine
from fathom_server.engine.request import Piece
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineSettings
from fathom_server.errors import RequestError
from fathom_server.text.tokenizer import TextTokenizer

_MOST_AT_ONCE: Final = 16
_TIMEOUT_S: Final = 86_400.0
_CHUNK_TOKENS: Final = 256


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and how it is to be answered."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingParameters


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's tokens, the end token included, and its text."""

    token_ids: tuple[int, ...]
    text: str


class _Collector:
    """Takes one answer's pieces on the engine's thread and puts the whole into a queue."""

    def __init__(self, number: int, done: "queue.SimpleQueue[tuple[int, Answer | RequestError]]") -> None:
        self._number = number
        self._done = done
        self._pieces: list[Piece] = []

    def on_piece(self, piece: Piece) -> None:
        self._pieces.append(piece)
        if piece.is_last:
            token_ids = tuple(token for each in self._pieces for token in each.token_ids)
            self._done.put((self._number, Answer(token_ids, "".join(each.text for each in self._pieces))))

    def on_error(self, error: RequestError) -> None:
        self._done.put((self._number, error))


def answer_all(
    folder: Path,
    settings: EngineSettings,
    tokenizer: TextTokenizer,
    questions: Sequence[Question],
    options: Mapping[str, str],
) -> list[Answer]:
    """Answer every question with the model of a version's folder, in continuous batches; answers in order.

    ``options`` are ONNX Runtime's session options by name. Every question must fit into the context. Raises
    ParityError where the model gives no numbers.
    """
    if not questions:
        return []
    limits = settings.limits
    longest = max(len(question.prompt_ids) + (question.sampling.max_tokens or 1) for question in questions)
    own = replace(
        limits,
        max_batch=min(_MOST_AT_ONCE, len(questions)),
        max_queue=len(questions),
        max_context=min(settings.graph.max_context, longest + 1),
        prefill_chunk=min(limits.prefill_chunk, _CHUNK_TOKENS),
        timeout_s=_TIMEOUT_S,
    )
    adapted = replace(settings, limits=own)
    engine = Engine(load_runner(folder, adapted, options), adapted, tokenizer)
    done: queue.SimpleQueue[tuple[int, Answer | RequestError]] = queue.SimpleQueue()
    answers: dict[int, Answer] = {}
    engine.start()
    try:
        for number, question in enumerate(questions):
            sink = _Collector(number, done)
            engine.submit(str(number), list(question.prompt_ids), question.sampling, sink)
        for _ in questions:
            number, answer = done.get()
            if isinstance(answer, RequestError):
                raise ParityError(f"the exported model cannot answer a question of its quality check: {answer}")
            answers[number] = answer
    finally:
        engine.stop()
    return [answers[number] for number in range(len(questions))]
