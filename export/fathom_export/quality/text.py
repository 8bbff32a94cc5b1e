"""The text that a decoder is judged on: a held-out set, a user's file, or what the model itself writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fathom_export.errors import SourceError
from fathom_export.quality.answers import Question, answer_all
from fathom_export.quality.held_out import HeldOutRow
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineSettings
from fathom_server.text.tokenizer import TextError, TextTokenizer

TextOrigin = Literal["held-out", "file", "generated"]

_LONGEST_PASSAGE: Final = 256
_MOST_FILE_BYTES: Final = 64 << 20
_OPENINGS: Final = (
    "The",
    "Once upon a time",
    "How does",
    "In the morning",
    "Write a short text about the sea.",
    "What is the capital of France?",
    "Explain why the sky is blue.",
    "List three fruits and their colours.",
    "def main():",
    "Yesterday we",
    "Dear Sir or Madam,",
    "There are many reasons",
)
_GENERATED_TOKENS: Final = 96


@dataclass(frozen=True, slots=True)
class Passage:
    """A text's tokens; those from ``first_target`` (at least 1) on are the ones whose prediction counts."""

    token_ids: tuple[int, ...]
    first_target: int

    @property
    def positions(self) -> range:
        """Positions whose logits predict the tokens that count."""
        return range(self.first_target - 1, len(self.token_ids) - 1)

    @property
    def targets(self) -> tuple[int, ...]:
        """The tokens that count."""
        return self.token_ids[self.first_target :]


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """Passages, where they are from, and that in words."""

    origin: TextOrigin
    description: str
    passages: tuple[Passage, ...]

    def within(self, budget_tokens: int) -> tuple[Passage, ...]:
        """The first passages that take at most so many tokens to compute, at least one."""
        kept: list[Passage] = []
        for passage in self.passages:
            budget_tokens -= len(passage.token_ids)
            if kept and budget_tokens < 0:
                break
            kept.append(passage)
        return tuple(kept)


def held_out_text(
    rows: Sequence[HeldOutRow], path: Path, tokenizer: TextTokenizer, end_ids: Sequence[int], max_context: int
) -> EvaluationText:
    """Questions by the chat template with their answers; the answers' tokens, and one that ends them, count.

    Rows that do not fit into the context are left out. Raises SourceError where none is left, or where the template
    refuses a row.
    """
    passages = []
    for row in rows:
        try:
            prompt = tokenizer.encode_messages(row.messages)
        except TextError as error:
            raise SourceError(f"{path}: row {row.id!r} cannot be rendered: {error}") from error
        answer = tokenizer.tokenizer.encode(row.answer, add_special_tokens=False).ids
        tokens = (*prompt, *answer, *end_ids[:1])
        if prompt and len(prompt) < len(tokens) <= max_context:
            passages.append(Passage(tokens, len(prompt)))
    if not passages:
        raise SourceError(f"{path} has no row that fits into a context of {max_context} tokens")
    return EvaluationText("held-out", f"answers of {path.name}, by the chat template", tuple(passages))


def file_text(path: Path, tokenizer: TextTokenizer, max_context: int) -> EvaluationText:
    """A text file of the user's in passages of up to 256 tokens; every token but a passage's first counts.

    Raises SourceError where it cannot be read or holds too little.
    """
    text = read_text(path)
    size = min(_LONGEST_PASSAGE, max_context)
    ids = tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
    pieces = [tuple(ids[begin : begin + size]) for begin in range(0, len(ids), size)]
    passages = tuple(Passage(piece, 1) for piece in pieces if len(piece) > 1)
    if not passages:
        raise SourceError(f"{path} holds {len(ids)} tokens; text to judge a model on must have at least 2")
    return EvaluationText("file", f"the text of {path.name}", passages)


def generated_text(
    folder: Path, settings: EngineSettings, tokenizer: TextTokenizer, options: Mapping[str, str]
) -> EvaluationText:
    """What the model in a version's folder writes after fixed openings, sampled at temperature 1 with fixed seeds.

    A tokenizer that has no tokens for them (one of a narrow vocabulary) begins with the model's end token instead.
    Raises SourceError where there is none either.
    """
    context = settings.graph.max_context
    questions = []
    for seed, opening in enumerate(_OPENINGS):
        prompt = _opening_ids(tokenizer, opening)[: max(1, context // 2)] or [*settings.eos_token_ids[:1]]
        length = min(_GENERATED_TOKENS, context - len(prompt))
        if prompt and length > 0:
            sampling = SamplingParameters(max_tokens=length, temperature=1.0, seed=seed)
            questions.append(Question(tuple(prompt), sampling))
    if not questions:
        raise SourceError(
            "the tokenizer has no tokens for text to judge the model on; name a file by --evaluation-text"
        )
    answers = answer_all(folder, settings, tokenizer, questions, options)
    passages = tuple(
        Passage(question.prompt_ids + answer.token_ids, len(question.prompt_ids))
        for question, answer in zip(questions, answers, strict=True)
    )
    return EvaluationText("generated", "text that the model itself sampled, temperature 1, fixed seeds", passages)


def read_text(path: Path) -> str:
    """A user's text; raises SourceError where it cannot be read or is empty."""
    try:
        if path.stat().st_size > _MOST_FILE_BYTES:
            raise SourceError(f"{path} is larger than {_MOST_FILE_BYTES >> 20} MiB; give a sample of it")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as text: {error}") from error
    if not text.strip():
        raise SourceError(f"{path} is empty; give a text like what the model will be used on")
    return text


def _opening_ids(tokenizer: TextTokenizer, opening: str) -> list[int]:
    if tokenizer.has_chat_template:
        try:
            return tokenizer.encode_messages([{"role": "user", "content": opening}])
        except TextError:  # a template that wants other turns; plain text does as well
            pass
    return tokenizer.encode(opening)
