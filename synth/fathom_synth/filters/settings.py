"""The filters' settings, as tables ``[[filters]]`` of a job; the key ``filter`` says which one it is."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
File = Annotated[Path, Field(strict=False)]


class FilterTable(BaseModel):
    """A filter's table: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SchemaSettings(FilterTable):
    """Answers to a prompt with a JSON schema must be JSON that fits it; others pass."""

    filter: Literal["schema"]


class LengthSettings(FilterTable):
    """Answers must have ended by themselves, and be neither too short nor too long."""

    filter: Literal["length"]
    complete: bool = True
    """Whether an answer that ``max_tokens`` cut off is dropped."""
    min_characters: Annotated[int, Field(ge=0)] = 1
    max_characters: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(ge=1)] | None = None


class HeuristicsSettings(FilterTable):
    """Signs of degenerate text that hold in any script."""

    filter: Literal["heuristics"]
    max_repeated_share: Share = 0.5
    """Of an answer's n-grams of characters, those that came before in it."""
    ngram: Annotated[int, Field(ge=2, le=64)] = 10
    max_repeated_lines_share: Share = 0.3
    """Of an answer's lines, those that came before in it (Gopher's rule; Rae et al. 2021, table A1)."""
    max_symbol_share: Share = 0.5
    """Of the characters that are no white space, those that are neither letter, mark nor number."""
    max_run: Annotated[int, Field(ge=1)] = 32
    """Longest run of one character."""
    min_characters: Annotated[int, Field(ge=0)] = 40
    """Shorter answers are not judged by shares."""


class DuplicatesSettings(FilterTable):
    """Exact duplicates, of prompt and answer, after Unicode's NFKC, case and white space are evened out."""

    filter: Literal["duplicates"]
    over: Literal["conversation", "answer", "prompt"] = "conversation"


class NearDuplicatesSettings(FilterTable):
    """Near duplicates by MinHash and locality-sensitive hashing; the first of each kind stays."""

    filter: Literal["near_duplicates"]
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Jaccard similarity of the sets of shingles, from which a row is dropped."""
    shingle: Annotated[int, Field(ge=1, le=64)] = 5
    """Characters a shingle."""
    permutations: Annotated[int, Field(ge=16, le=1024)] = 128
    over: Literal["conversation", "answer", "prompt"] = "conversation"


class DecontaminationSettings(FilterTable):
    """Rows that share an n-gram of words with a held-out text are dropped."""

    filter: Literal["decontamination"]
    held_out: Annotated[list[File], Field(min_length=1)]
    """JSONL, CSV or Parquet; every text in a row counts, also inside lists and objects."""
    fields: list[Text] | None = None
    """Only these columns."""
    ngram: Annotated[int, Field(ge=1, le=64)] = 13
    """Words; 13 is GPT-3's (Brown et al. 2020, appendix C). A shorter text is matched as a whole."""


class LogprobSettings(FilterTable):
    """How sure the teacher was: natural logarithms of its tokens' probabilities."""

    filter: Literal["logprob"]
    min_mean: Annotated[float, Field(le=0)] | None = None
    min_token: Annotated[float, Field(le=0)] | None = None

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.min_mean is None and self.min_token is None:
            raise ValueError("needs min_mean, min_token or both")
        return self


class JudgeSettings(FilterTable):
    """A judge model's score: an LLM that chooses among verdicts, or a classifier's probability of a label."""

    filter: Literal["judge"]
    name: Text = "judge"
    """The score's name in the rows."""
    model: Text
    url: Text | list[Text] | None = None
    """Where it is served, if not by the job's server."""
    template: Text
    """Jinja source of what the judge reads; it has prompt, system, answer, and the seed's columns as seed."""
    verdicts: Annotated[dict[Text, float], Field(min_length=2)] | None = None
    """What an LLM may answer, and what each is worth; the score is their mean by the judge's probabilities."""
    label: Text | None = None
    """Of a classifier, the label whose probability is the score."""
    min_score: float
    max_verdict_tokens: Annotated[int, Field(ge=1, le=512)] = 32

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.verdicts is None) == (self.label is None):
            raise ValueError("needs exactly one of verdicts (an LLM judges) and label (a classifier does)")
        return self


class AgreementSettings(FilterTable):
    """Answers that too few of a prompt's samples agree with are dropped (self-consistency; Wang et al. 2022)."""

    filter: Literal["agreement"]
    min_share: Share = 0.5
    """Of a prompt's samples, those that must give the same answer."""
    pattern: Text | None = None
    """Regular expression whose first group, or whole match, is the answer that is compared."""
    keep: Literal["one", "all"] = "one"
    """Of the samples that agree, the first that passed the filters before, or all."""


FilterSettings = Annotated[
    SchemaSettings
    | LengthSettings
    | HeuristicsSettings
    | DuplicatesSettings
    | NearDuplicatesSettings
    | DecontaminationSettings
    | LogprobSettings
    | JudgeSettings
    | AgreementSettings,
    Field(discriminator="filter"),
]
