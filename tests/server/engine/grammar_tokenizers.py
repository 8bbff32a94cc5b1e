"""Tokenizers of the kinds that models have, trained on the spot."""

import json
from pathlib import Path

from tests.server.engine.grammar_walk import Model
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from fathom_server.text.tokenizer import TextTokenizer

EXAMPLES = Path("examples/models")
PADDING = 61
"""Ids that a model's vocabulary has beyond its tokenizer's."""

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _id(tokenizer: Tokenizer, token: str) -> int:
    index = tokenizer.token_to_id(token)
    assert index is not None
    return int(index)


def corpus() -> list[str]:
    """Prose and JSON of this repository."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path("docs").glob("*.md"))]
    lines = Path("tests/server/engine/schemas/real.jsonl").read_text(encoding="utf-8").splitlines()
    return [*texts, *(json.dumps(json.loads(line)) for line in lines), *lines]


def example(name: str) -> Model:
    """The tokenizer of an example model, its vocabulary padded."""
    tokenizer = TextTokenizer.load(EXAMPLES / name)
    eos = _id(tokenizer.tokenizer, "<|im_end|>")
    return Model.of(tokenizer, tokenizer.tokenizer.get_vocab_size() + PADDING, frozenset([eos]))


def byte_level() -> Model:
    """As Qwen's and Llama 3's: byte-level BPE, several ends, role and tool markers, not all of them marked special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    ends = frozenset(_id(tokenizer, token) for token in ("<|endoftext|>", "<|im_end|>"))
    return Model.of(TextTokenizer(tokenizer, {}, None), tokenizer.get_vocab_size() + PADDING, ends)


def sentencepiece(*, leading_space: bool) -> Model:
    """BPE with a space mark and bytes as a last resort; as Llama 2's and Mistral's with a space before every text.

    Without it as Gemma's.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    marks, joins = normalizers.Replace(" ", "▁"), [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), marks]) if leading_space else marks
    tokenizer.decoder = decoders.Sequence([*joins, decoders.Strip(" ", 1, 0)] if leading_space else joins)
    reserved = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = [piece for text in corpus() for piece in _words(text)]
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=reserved, show_progress=False)
    tokenizer.train_from_iterator(pieces, trainer)
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = description["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(description))
    eos = _id(tokenizer, "</s>")
    return Model.of(TextTokenizer(tokenizer, {}, None), tokenizer.get_vocab_size() + PADDING, frozenset([eos]))


def unigram() -> Model:
    """As T5's and Gemma's ancestors: a Unigram model with Metaspace, no bytes to fall back on."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    printable = [chr(code) for code in range(0x20, 0x7F)]
    trainer = trainers.UnigramTrainer(
        vocab_size=2000, initial_alphabet=printable, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(corpus(), trainer)
    eos = _id(tokenizer, "</s>")
    return Model.of(TextTokenizer(tokenizer, {}, None), tokenizer.get_vocab_size() + PADDING, frozenset([eos]))


def wordpiece() -> Model:
    """As BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=1000, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    eos = _id(tokenizer, "[SEP]")
    return Model.of(TextTokenizer(tokenizer, {}, None), tokenizer.get_vocab_size(), frozenset([eos]))


def _words(text: str) -> list[str]:
    return [word for line in text.splitlines() for word in line.split(" ") if word]
