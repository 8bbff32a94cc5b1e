"""Pieces joined are the whole text, and no piece splits a character."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from fathom_server.text.detokenizer import ByteLevelDetokenizer, DetokenizerFactory, StreamDetokenizer

BYTE_LEVEL = Tokenizer.from_file(str(Path("examples/models/large/tokenizer.json").resolve()))
FACTORY = DetokenizerFactory(BYTE_LEVEL)

ALL_PLANES = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


def _stream(factory: DetokenizerFactory, ids: list[int]) -> list[str]:
    detokenizer = factory.new()
    return [detokenizer.push([token]) for token in ids]


@given(ALL_PLANES)
def test_pieces_joined_are_the_text(text: str) -> None:
    """Any Unicode text comes back whole, token by token, with no replacement character of ours."""
    pieces = _stream(FACTORY, BYTE_LEVEL.encode(text).ids)
    assert "".join(pieces) == text
    assert all("�" not in piece or "�" in text for piece in pieces)


@given(st.lists(st.integers(0, BYTE_LEVEL.get_vocab_size() - 1), max_size=40))
def test_random_tokens_give_the_librarys_text(ids: list[int]) -> None:
    """Bytes that are no UTF-8 read as the library reads them, but for a character cut off at the very end."""
    joined = "".join(_stream(FACTORY, ids))
    whole = BYTE_LEVEL.decode(ids, skip_special_tokens=True)
    assert whole == joined or (whole.startswith(joined) and set(whole[len(joined) :]) == {"�"})


def test_character_waits_for_its_last_byte() -> None:
    """A character of four tokens is shown once, with the last of them."""
    ids = BYTE_LEVEL.encode("\U0001f9ff").ids
    assert len(ids) > 1
    assert _stream(FACTORY, ids) == [""] * (len(ids) - 1) + ["\U0001f9ff"]


def test_ids_beyond_the_vocabulary_have_no_text() -> None:
    """A model whose vocabulary is padded beyond its tokenizer's may give such an id."""
    assert FACTORY.new().push([BYTE_LEVEL.get_vocab_size() + 5]) == ""


def test_special_tokens_have_no_text() -> None:
    """End-of-turn markers do not show, unless special tokens are to be seen."""
    ids = [*BYTE_LEVEL.encode("a").ids, BYTE_LEVEL.token_to_id("<|im_end|>")]
    assert FACTORY.new().push(ids) == "a"
    assert FACTORY.new(skip_special_tokens=False).push(ids) == "a<|im_end|>"


@pytest.fixture(scope="module")
def sentencepiece_style() -> Tokenizer:
    """BPE with byte fallback and metaspaces, as Llama 2 and Gemma have it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], initial_alphabet=list("abcdefgh▁"))
    tokenizer.train_from_iterator(["hello there", "the quick brown fox", "a b c"], trainer)
    tokenizer.add_tokens(specials[1:])
    return tokenizer


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    """WordPiece, as BERT has it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]"])
    tokenizer.train_from_iterator(["hello there", "the quick brown fox jumps over lazy dogs"], trainer)
    return tokenizer


@pytest.mark.parametrize("kind", ["sentencepiece_style", "wordpiece"])
def test_other_kinds_keep_their_spaces(kind: str, request: pytest.FixtureRequest) -> None:
    """Tokenizers whose spaces depend on the neighbours stream the text that they give at once."""
    tokenizer = request.getfixturevalue(kind)
    factory = DetokenizerFactory(tokenizer)
    assert isinstance(factory.new(), StreamDetokenizer)
    ids = tokenizer.encode("the quick brown fox hello there").ids
    assert "".join(_stream(factory, ids)) == tokenizer.decode(ids)


def test_byte_level_is_recognised() -> None:
    """The trained tokenizer takes the byte-level way."""
    assert isinstance(FACTORY.new(), ByteLevelDetokenizer)
