"""What single tokens write."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models

from fathom_server.text.token_bytes import SpelledTokens

BYTE_LEVEL = Tokenizer.from_file(str(Path("examples/models/large/tokenizer.json").resolve()))


@pytest.mark.parametrize("text", ["The quick brown fox", "naïve 東京 🦉\n\t{}", ""])
def test_the_bytes_of_a_texts_tokens_are_the_text(text: str) -> None:
    """Laid end to end they are the text's bytes, characters that several tokens share included."""
    table = SpelledTokens(BYTE_LEVEL)
    assert b"".join(table[token] for token in BYTE_LEVEL.encode(text).ids) == text.encode()


def test_special_tokens_write_their_names() -> None:
    """A special token, which shows nothing in a text, is listed by its name."""
    token = BYTE_LEVEL.token_to_id("<|im_end|>")
    assert SpelledTokens(BYTE_LEVEL)[token] == b"<|im_end|>"


def test_other_kinds_of_vocabulary_are_read() -> None:
    """SentencePiece's space mark and byte tokens and WordPiece's mark of an inner part are read as what they write."""
    vocabulary = {"<unk>": 0, "<0xE2>": 1, "▁the": 2, "ab": 4}
    sentence_piece = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    sentence_piece.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    table = SpelledTokens(sentence_piece)
    assert [table[index] for index in range(5)] == [b"<unk>", b"\xe2", b" the", b"", b"ab"]
    word_piece = Tokenizer(models.WordPiece(vocab={"[UNK]": 0, "play": 1, "##ing": 2}, unk_token="[UNK]"))
    word_piece.decoder = decoders.WordPiece()
    table = SpelledTokens(word_piece)
    assert [table[index] for index in range(3)] == [b"[UNK]", b"play", b"ing"]
