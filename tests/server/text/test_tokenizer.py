"""Ids are those of transformers, for text and for messages."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from fathom_server.text.tokenizer import TextError, TextTokenizer

LARGE = Path("examples/models/large").resolve()

TEXTS = [
    "What is 17 + 25?",
    "  spaces  kept\n\ttabs and\r\nlines ",
    "Grüße, 東京, Ελλάδα, עברית, 👩‍👩‍👧 and \U00010348",
    "<|im_start|>user\nhello<|im_end|>",
]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(LARGE)


@pytest.fixture(scope="module")
def reference():
    return AutoTokenizer.from_pretrained(LARGE)


@pytest.mark.parametrize("text", TEXTS)
def test_text_gives_the_ids_of_transformers(tokenizer, reference, text: str) -> None:
    """One text, special tokens and all, has the same ids as in transformers."""
    assert tokenizer.encode(text) == reference(text)["input_ids"]


def test_batch_gives_the_ids_of_each_text(tokenizer) -> None:
    """A batch is its texts, unpadded."""
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Copy: añb 東"}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Sort 3, 1, 2."},
            {"role": "assistant", "content": "1, 2, 3"},
            {"role": "user", "content": "And back?"},
        ],
    ],
)
def test_messages_give_the_ids_of_transformers(tokenizer, reference, messages) -> None:
    """The chat template renders to the ids that apply_chat_template gives."""
    expected = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode_messages(messages) == expected


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "at least one"),
        ("hello", "must be a list"),
        (["hello"], r"messages\[0\] must be an object, not str"),
        ([{"role": "user"}], r"messages\[0\].content must be a string, not NoneType"),
        ([{"role": 7, "content": "x"}], r"messages\[0\].role must be a string, not int"),
    ],
)
def test_malformed_messages_are_named(tokenizer, messages, told: str) -> None:
    """Messages that are not messages are refused with their position and what is wrong."""
    with pytest.raises(TextError, match=told):
        tokenizer.encode_messages(messages)


def _with_template(folder: Path, template: str) -> TextTokenizer:
    shutil.copy(LARGE / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return TextTokenizer.load(folder)


def test_model_without_template_takes_no_messages(tmp_path: Path) -> None:
    """Without a chat template the caller is told to send text."""
    shutil.copy(LARGE / "tokenizer.json", tmp_path)
    with pytest.raises(TextError, match="no chat template; send text_input"):
        TextTokenizer.load(tmp_path).encode_messages([{"role": "user", "content": "x"}])


def test_template_can_refuse(tmp_path: Path) -> None:
    """What a template raises reaches the caller."""
    tokenizer = _with_template(tmp_path, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TextError, match="roles must alternate"):
        tokenizer.encode_messages([{"role": "user", "content": "x"}])


def test_template_is_sandboxed(tmp_path: Path) -> None:
    """A template cannot reach Python through attributes."""
    tokenizer = _with_template(tmp_path, "{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(TextError, match="unsafe"):
        tokenizer.encode_messages([{"role": "user", "content": "x"}])


def test_broken_files_are_named(tmp_path: Path) -> None:
    """A file that is missing or no tokenizer is named with its path."""
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TextError, match=r"tokenizer\.json is not a tokenizer"):
        TextTokenizer.load(tmp_path)
