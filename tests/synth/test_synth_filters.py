"""The filters, one by one: what each drops, and why."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_client import TokenLogprob
from fathom_synth.asking import RefusedError
from fathom_synth.candidate import Answers, Candidate, Sample, candidates_of
from fathom_synth.errors import JobError, SeedError
from fathom_synth.filters.base import Filter
from fathom_synth.filters.certainty import AgreementFilter, LogprobFilter
from fathom_synth.filters.decontamination import DecontaminationFilter
from fathom_synth.filters.duplicates import DuplicatesFilter, NearDuplicatesFilter
from fathom_synth.filters.heuristics import HeuristicsFilter, longest_run, repeated_share, symbol_share
from fathom_synth.filters.judge import weigh
from fathom_synth.filters.pipeline import Stage, sift
from fathom_synth.filters.settings import (
    AgreementSettings,
    DecontaminationSettings,
    DuplicatesSettings,
    HeuristicsSettings,
    LengthSettings,
    LogprobSettings,
    NearDuplicatesSettings,
)
from fathom_synth.filters.shape import LengthFilter, SchemaFilter
from fathom_synth.filters.text import words_of
from fathom_synth.job import SamplingSettings
from fathom_synth.prompts import Prompt

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def candidates(*answers: str | Sample, user: str = "ask", schema: dict[str, Any] | None = None) -> list[Candidate]:
    """All answers to one prompt."""
    prompt = Prompt(user, "p", 1, ({"role": "user", "content": user},), {}, schema, True, SamplingSettings(), 0)
    samples = (each if isinstance(each, Sample) else Sample(each, "stop", len(each), -0.1, -0.5) for each in answers)
    return candidates_of(prompt, Answers(tuple(samples), 3))


async def reasons(tested: Filter, given: Sequence[Candidate]) -> list[str | None]:
    """Why each is dropped."""
    return await tested.reasons(given)


async def test_schema_drops_what_is_no_json_or_does_not_fit() -> None:
    """JSON as the standard has it, of the schema's form; prompts without a schema pass."""
    given = candidates('{"age": 3}', '{"age": "3"}', '{"age": 3', '{"age": NaN}', "[" * 99_999, schema=SCHEMA)
    assert await reasons(SchemaFilter(), given) == [None, "does not fit", "not JSON", "not JSON", "not JSON"]
    assert await reasons(SchemaFilter(), candidates("free text")) == [None]


async def test_length_drops_what_was_cut_off_and_what_is_out_of_bounds() -> None:
    """An answer that max_tokens ended is no answer; white space is no text."""
    tested = LengthFilter(LengthSettings(filter="length", min_characters=2, max_characters=5, max_tokens=6))
    given = candidates("abc", "a", " a ", "abcdef", Sample("abc", "length", 3, 0, 0), Sample("abc", "stop", 7, 0, 0))
    assert await reasons(tested, given) == [None, "too short", "too short", "too long", "cut off", "too long"]
    lenient = LengthFilter(LengthSettings(filter="length", complete=False))
    assert await reasons(lenient, candidates(Sample("abc", "length", 3, 0, 0))) == [None]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The quick brown fox jumps over the lazy dog, and then it goes home to sleep.", None),
        ("Der schnelle braune Fuchs springt über den faulen Hund und geht nach Hause.", None),
        ("敏捷的棕色狐狸跳过了懒惰的狗然后回家睡觉因为天色已晚而且月亮已经升起来了大家都很累想要休息一下子", None),
        ("الثعلب البني السريع يقفز فوق الكلب الكسول ثم يذهب إلى بيته لينام طويلا", None),
        ("ok", None),
        ("I think so. " * 30, "repeats itself"),
        ("我认为是这样的。" * 30, "repeats itself"),
        ("first line here\nsecond one\nsecond one\nsecond one\nthird and last of them", "repeats lines"),
        ("{}[]()<>!@#$%^&*-=+|;:,./?~`'\"\\_–—…«»“”‘’¡¿§¶†‡", "symbols"),
        ("a" * 33, "long run"),
        ("a" * 32, None),
    ],
)
async def test_heuristics_know_degenerate_text_in_any_script(text: str, reason: str | None) -> None:
    """Ordinary sentences pass in every script; loops, symbols and runs do not."""
    assert await reasons(HeuristicsFilter(HeuristicsSettings(filter="heuristics")), candidates(text)) == [reason]


@given(st.text(max_size=200))
def test_shares_are_shares(text: str) -> None:
    """Whatever the text, shares lie between 0 and 1, and a run is no longer than the text."""
    for share in (repeated_share(text, 5), symbol_share(text)):
        assert 0 <= share <= 1
    assert longest_run(text) <= len(text)


async def test_exact_duplicates_are_found_whatever_their_spelling() -> None:
    """Case, width and white space make no difference; the first stays, and another prompt's answer is another row."""
    tested = DuplicatesFilter(DuplicatesSettings(filter="duplicates"))
    first = candidates("Ａ  plain answer", "a PLAIN\nanswer", "another")
    assert await reasons(tested, first) == [None, "came before", None]
    assert await reasons(tested, candidates("another", user="else")) == [None]
    over_answers = DuplicatesFilter(DuplicatesSettings(filter="duplicates", over="answer"))
    assert await reasons(over_answers, [*candidates("x"), *candidates("x", user="else")]) == [None, "came before"]


async def test_near_duplicates_are_found_and_different_texts_kept() -> None:
    """One word changed in a long text is a near duplicate; another text is not, nor a short one of other words."""
    tested = NearDuplicatesFilter(NearDuplicatesSettings(filter="near_duplicates", threshold=0.7, over="answer"))
    story = "Once upon a time a small model asked a large one for advice, and wrote down every word that it was told."
    other = "The quarterly report lists revenue by region, with a table of what changed since the year before."
    given = candidates(story, story.replace("small", "tiny"), other, "yes", "no", "Yes")
    assert await reasons(tested, given) == [None, "resembles another", None, None, None, "resembles another"]


async def test_decontamination_finds_held_out_texts_in_prompt_and_answer(tmp_path: Path) -> None:
    """An n-gram of a held-out text, in whatever case and punctuation, or a whole short question."""
    held_out = tmp_path / "held_out.jsonl"
    long = "The capital of the country that lies north of Spain is Paris on the Seine."
    rows = [
        {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "answer": "4"},
        {"messages": [], "answer": long},
    ]
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tested = DecontaminationFilter(DecontaminationSettings(filter="decontamination", held_out=[held_out], ngram=8))
    leaked = "So: the CAPITAL of the country, that lies north of Spain... is big"
    assert await reasons(tested, candidates("fine", leaked, "the capital of the country")) == [
        None,
        "held-out text",
        None,
    ]
    assert await reasons(tested, candidates("x", user="what IS 2+2")) == ["held-out question"]
    assert await reasons(tested, candidates("4", user="What is 2 + 3?")) == [None]
    (tmp_path / "empty.jsonl").write_text('{"n": 1}\n')
    with pytest.raises(SeedError, match="holds no text"):
        DecontaminationFilter(DecontaminationSettings(filter="decontamination", held_out=[tmp_path / "empty.jsonl"]))
    with pytest.raises(SeedError, match=r"held_out\.jsonl:1: has no 'question'; it has messages, answer"):
        DecontaminationFilter(
            DecontaminationSettings(filter="decontamination", held_out=[held_out], fields=["question"])
        )
    held_out.write_text('{"a": "x"}\n{"a": \n')
    with pytest.raises(SeedError, match=r"held_out\.jsonl:2: is not JSON .*must be whole"):
        DecontaminationFilter(DecontaminationSettings(filter="decontamination", held_out=[held_out]))


def test_words_are_found_in_scripts_without_spaces() -> None:
    """A Han, kana or Thai character is a word of its own; elsewhere words are runs of letters and digits."""
    assert words_of("Zürich, 2026: 東京タワー!") == ["zürich", "2026", "東", "京", "タ", "ワ", "ー"]
    assert words_of("ไทย 🎉") == ["ไ", "ท", "ย"]


async def test_logprob_drops_what_the_teacher_doubted() -> None:
    """As a whole by the mean, in one token by the minimum; without log-probabilities nothing passes."""
    tested = LogprobFilter(LogprobSettings(filter="logprob", min_mean=-0.5, min_token=-2.0))
    given = candidates(
        Sample("a", "stop", 1, -0.5, -2.0), Sample("b", "stop", 1, -0.6, -0.6), Sample("c", "stop", 9, -0.2, -2.1),
        Sample("d", "stop", 1, None, None),
    )  # fmt: skip
    assert await reasons(tested, given) == [None, "unlikely", "unlikely token", "no log-probabilities"]


async def test_agreement_keeps_the_answer_of_most_samples() -> None:
    """The majority's answer stays once; the others, and what too few share, go. JSON agrees whatever its order."""
    tested = AgreementFilter(AgreementSettings(filter="agreement", min_share=0.5))
    given = candidates("8", "7", "8 ", "8", "6")
    assert await reasons(tested, given) == [None, "few agree", "said already", "said already", "few agree"]
    assert [each.scores["agreement"] for each in given] == [0.6, 0.2, 0.6, 0.6, 0.2]
    assert await reasons(tested, candidates("a", "b", "b", "a", user="tie")) == [
        None, "others agree", "others agree", "said already",
    ]  # fmt: skip
    same = candidates('{"age": 1, "b": 2}', '{"b": 2,"age":1}', schema=SCHEMA, user="json")
    every = AgreementFilter(AgreementSettings(filter="agreement", min_share=1.0, keep="all"))
    assert await reasons(every, same) == [None, None]


async def test_agreement_compares_what_a_pattern_finds() -> None:
    """Of long answers only the result is compared; a pattern that is none is refused."""
    tested = AgreementFilter(AgreementSettings(filter="agreement", min_share=0.6, pattern=r"answer is (\d+)"))
    given = candidates("I add. The answer is 42", "So the answer is 42.", "the answer is 41")
    assert await reasons(tested, given) == [None, "said already", "few agree"]
    with pytest.raises(JobError, match=r"pattern is '\(', no regular expression"):
        AgreementFilter(AgreementSettings(filter="agreement", pattern="("))


async def test_every_sample_votes_also_one_that_was_dropped_before() -> None:
    """Duplicates are what agrees: dropping them first changes no vote."""
    stages = [
        Stage(DuplicatesSettings(filter="duplicates"), DuplicatesFilter(DuplicatesSettings(filter="duplicates"))),
        Stage(
            AgreementSettings(filter="agreement", min_share=0.6),
            AgreementFilter(AgreementSettings(filter="agreement", min_share=0.6)),
        ),
    ]
    kept, rejected = await sift(stages, candidates("8", "8", "8", "7"))
    assert [each.sample.text for each in kept] == ["8"]
    assert [(each.filter, each.reason) for each in rejected] == [
        ("duplicates", "came before"), ("duplicates", "came before"), ("agreement", "few agree"),
    ]  # fmt: skip
    assert [(stage.seen, dict(stage.dropped)) for stage in stages] == [
        (4, {"came before": 2}), (2, {"few agree": 1}),
    ]  # fmt: skip


def token(text: str, share: float) -> TokenLogprob:
    """A token that begins a verdict with this probability."""
    return TokenLogprob(1, math.log(share), (), text.encode())


def test_a_verdict_is_weighed_by_the_judges_probabilities() -> None:
    """The score is the verdicts' mean worth where their first tokens tell them apart, else the chosen one's worth."""
    verdicts = {"good": 1.0, "bad": 0.0}
    first = TokenLogprob(1, math.log(0.6), (token("good", 0.6), token("ba", 0.2), token("x", 0.1)), b"good")
    assert weigh(verdicts, "good", [first]) == pytest.approx(0.75)
    one_sided = TokenLogprob(1, math.log(0.6), (token("good", 0.6),), b"good")
    assert weigh(verdicts, "good", [one_sided]) == 1.0
    assert weigh({"1": 1.0, "10": 10.0}, "10", [TokenLogprob(1, -0.1, (token("1", 0.9),), b"1")]) == 10.0
    with pytest.raises(RefusedError, match="the judge answered 'perhaps', none of good, bad"):
        weigh(verdicts, "perhaps", [])
