"""The example models' data, split, checkers, tokenizer and chat template; nothing here trains."""

import json
import sys
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
sys.path.insert(0, str(MODELS))

from fathom_examples.batches import collate, conversation, encode_samples  # noqa: E402
from fathom_examples.chat_tokenizer import (  # noqa: E402
    CHAT_TEMPLATE,
    IM_END,
    SPECIAL_TOKENS,
    VOCABULARY_SIZE,
    render_prompt,
)
from fathom_examples.checkers import CHECKERS, check  # noqa: E402
from fathom_examples.corpus import (  # noqa: E402
    HELD_OUT_PER_TASK,
    TRAINING_SHARES,
    held_out_samples,
    is_held_out,
    training_samples,
)
from fathom_examples.drills import DRILLS  # noqa: E402
from fathom_examples.tasks import TASKS  # noqa: E402

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SIZES = ("small", "large")


def committed_rows() -> list[dict[str, object]]:
    """The rows of the committed held-out set."""
    return [json.loads(line) for line in (MODELS / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]


def test_training_stream_depends_on_the_seed_alone() -> None:
    """Two streams of one seed are equal; another seed gives another stream."""
    assert list(islice(training_samples(7), 300)) == list(islice(training_samples(7), 300))
    assert list(islice(training_samples(7), 300)) != list(islice(training_samples(8), 300))


def test_committed_held_out_set_is_what_the_generator_gives() -> None:
    """The file in the repository is regenerated exactly, with every task equally often."""
    rows = committed_rows()
    samples = held_out_samples()
    assert [(row["task"], row["messages"], row["answer"], row["checker"]) for row in rows] == [
        (s.task, s.messages(), s.answer, s.checker) for s in samples
    ]
    assert len({row["id"] for row in rows}) == len(rows) == HELD_OUT_PER_TASK * len(TASKS)


def test_training_never_sees_held_out_content() -> None:
    """Every held-out sample is on the held-out side of the hash, and no training sample or prompt is."""
    held_out = held_out_samples()
    assert all(is_held_out(sample) for sample in held_out)
    prompts = {sample.user for sample in held_out}
    for sample in islice(training_samples(0), 20_000):
        assert not is_held_out(sample)
        assert sample.user not in prompts


def test_split_follows_content_and_not_phrasing() -> None:
    """All phrasings of one sum fall on one side, whichever operand comes first."""
    rng = Random(0)
    sides: dict[str, set[bool]] = {}
    phrasings: dict[str, set[str]] = {}
    for _ in range(20_000):
        sample = TASKS["arithmetic"](rng)
        sides.setdefault(sample.key, set()).add(is_held_out(sample))
        phrasings.setdefault(sample.key, set()).add(sample.user)
    assert max(map(len, phrasings.values())) > 1
    assert all(len(side) == 1 for side in sides.values())


def test_training_shares_cover_every_task() -> None:
    """Each task and each drill has a share, and the shares add up to one."""
    assert set(TRAINING_SHARES) == {*TASKS, *DRILLS}
    assert sum(TRAINING_SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("task", TASKS)
def test_checkers_accept_the_answer_and_refuse_others(task: str) -> None:
    """A sample's own answer passes; another sample's answer, a longer one and an empty one do not."""
    rng = Random(task)
    samples = [TASKS[task](rng) for _ in range(50)]
    for sample, other in pairwise(samples):
        assert check(sample.checker, sample.answer, sample.answer)
        assert check(sample.checker, f" {sample.answer}\n", sample.answer)
        assert not check(sample.checker, f"{sample.answer} 1", sample.answer)
        assert not check(sample.checker, "", sample.answer)
        assert check(sample.checker, other.answer, sample.answer) == (other.answer == sample.answer)


def test_arithmetic_answers_are_right() -> None:
    """The key states the sum or the difference; the reply repeats it with its value."""
    rng = Random(1)
    for _ in range(500):
        sample = TASKS["arithmetic"](rng)
        sign = "+" if "+" in sample.key else "-"
        a, b = map(int, sample.key.split(sign))
        equation, result = sample.answer.split(" = ")
        assert int(result) == (a + b if sign == "+" else a - b) >= 0
        assert sorted(map(int, equation.split(f" {sign} "))) == sorted((a, b))


def test_json_checker_compares_parsed_values_with_their_types() -> None:
    """Spacing and key order are free; a type, a missing key or broken JSON is wrong."""
    answer = '{"age": 1, "active": true}'
    assert check("json", '{"active":true,"age":1}', answer)
    for wrong in ('{"age": true, "active": true}', '{"age": 1.0, "active": true}', '{"age": 1}', '{"age": 1', "[]"):
        assert not check("json", wrong, answer)


def test_unknown_checker_is_refused_by_name() -> None:
    """The message lists the checkers there are."""
    with pytest.raises(ValueError, match=", ".join(CHECKERS)):
        check("regex", "a", "a")


@pytest.fixture(scope="module", params=SIZES)
def tokenizer(request: pytest.FixtureRequest) -> "Tokenizer":
    """The committed tokenizer of each size."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(MODELS / request.param / "tokenizer.json"))


def test_tokenizer_round_trips_every_unicode_plane(tokenizer: "Tokenizer") -> None:
    """Every 97th code point of all 17 planes, surrogates apart, and awkward white space come back unchanged."""
    points = [p for p in range(0, 0x110000, 97) if not 0xD800 <= p < 0xE000]
    for start in range(0, len(points), 200):
        text = "".join(map(chr, points[start : start + 200]))
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    for text in ("", " ", "  a\t\r\n b ", "e\u0301 é", "👩‍👩‍👧 flag 🇫🇷", "\x00\x7f", "1234567890 1,000.5"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_tokenizer_keeps_digits_apart_and_special_tokens_whole(tokenizer: "Tokenizer") -> None:
    """Four digits are four tokens; the special tokens hold the first ids; all 256 bytes are there."""
    assert len(tokenizer.encode("2026").ids) == 4
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert tokenizer.get_vocab_size() == VOCABULARY_SIZE
    from tokenizers.pre_tokenizers import ByteLevel

    assert all(tokenizer.token_to_id(letter) is not None for letter in ByteLevel.alphabet())


def test_both_sizes_share_one_tokenizer() -> None:
    """The small model can draft for the large one: same vocabulary, same template."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (MODELS / "small" / name).read_bytes() == (MODELS / "large" / name).read_bytes()


def test_chat_template_renders_roles_and_the_generation_prompt() -> None:
    """The Jinja template gives ChatML, equals the training data's rendering, and refuses an unknown role."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    config = json.loads((MODELS / "large" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["chat_template"] == CHAT_TEMPLATE
    assert config["eos_token"] == IM_END

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    template = environment.from_string(config["chat_template"])
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "2 + 2 ="},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "<b> & é"},
    ]
    rendered = template.render(messages=messages, add_generation_prompt=True)
    assert rendered == render_prompt(messages)
    assert rendered == (
        "<|im_start|>system\nAnswer briefly.<|im_end|>\n<|im_start|>user\n2 + 2 =<|im_end|>\n"
        "<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\n<b> & é<|im_end|>\n<|im_start|>assistant\n"
    )
    closed = template.render(messages=messages[:3], add_generation_prompt=False)
    assert closed.endswith("4<|im_end|>\n")
    with pytest.raises(ValueError, match="unknown role tool"):
        template.render(messages=[{"role": "tool", "content": ""}], add_generation_prompt=True)


def test_loss_is_on_the_reply_and_its_end_only(tokenizer: "Tokenizer") -> None:
    """The supervised targets of a batch row decode to the answer and <|im_end|>; padding carries no loss."""
    pytest.importorskip("torch")
    samples = list(islice(training_samples(5), 16))
    batch = collate(encode_samples(tokenizer, samples))
    for sample, targets in zip(samples, batch.targets, strict=True):
        ids = targets[targets >= 0].tolist()
        replies = [sample.answer, *(answer for _, answer in sample.follow_ups)]
        assert tokenizer.decode(ids, skip_special_tokens=False) == "".join(reply + IM_END for reply in replies)


def test_conversations_reach_the_last_position(tokenizer: "Tokenizer") -> None:
    """A packed conversation fills exactly the wanted length, with replies near its end."""
    pytest.importorskip("torch")
    encoded = encode_samples(tokenizer, list(islice(training_samples(6), 300)))
    row = conversation(iter(encoded), 2_048)
    assert len(row.ids) == len(row.weights) == 2_048
    assert any(row.weights[-200:])
