"""Right answers to held-out questions, given by the engine that serves the model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fathom_export.quality.answers import Question, answer_all
from fathom_export.quality.card import TaskAccuracy
from fathom_export.quality.held_out import HeldOutRow
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineSettings
from fathom_server.text.tokenizer import TextTokenizer

_MORE_TOKENS: Final = 8
"""An answer may be so much longer than the right one before it is cut off."""


def task_accuracy(
    version: Path,
    fp32: Path | None,
    rows: Sequence[HeldOutRow],
    tokenizer: TextTokenizer,
    options: Mapping[str, str],
) -> TaskAccuracy | None:
    """Greedy answers of the model in ``version``, and of the one in ``fp32``, to the questions that fit its context.

    None where no question fits.
    """
    settings = EngineSettings.load(version)
    asked: list[tuple[HeldOutRow, Question]] = []
    for row in rows:
        prompt = tokenizer.encode_messages(row.messages)
        length = len(tokenizer.encode(row.answer)) + _MORE_TOKENS
        if prompt and len(prompt) + length <= settings.limits.max_context:
            asked.append((row, Question(tuple(prompt), SamplingParameters(max_tokens=length))))
    if not asked:
        return None
    marks = _marks(version, asked, tokenizer, options)
    reference = None if fp32 is None else _marks(fp32, asked, tokenizer, {})
    return TaskAccuracy(
        rows=len(asked),
        accuracy=_share(marks),
        by_task=_by_task(asked, marks),
        reference_accuracy=None if reference is None else _share(reference),
        reference_by_task=None if reference is None else _by_task(asked, reference),
    )


def _marks(
    version: Path,
    asked: Sequence[tuple[HeldOutRow, Question]],
    tokenizer: TextTokenizer,
    options: Mapping[str, str],
) -> list[bool]:
    questions = [question for _, question in asked]
    answers = answer_all(version, EngineSettings.load(version), tokenizer, questions, options)
    return [row.is_right(answer.text) for (row, _), answer in zip(asked, answers, strict=True)]


def _by_task(asked: Sequence[tuple[HeldOutRow, Question]], marks: Sequence[bool]) -> dict[str, float]:
    tasks: dict[str, list[bool]] = {}
    for (row, _), mark in zip(asked, marks, strict=True):
        tasks.setdefault(row.task, []).append(mark)
    return {task: _share(own) for task, own in tasks.items()}


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks)
