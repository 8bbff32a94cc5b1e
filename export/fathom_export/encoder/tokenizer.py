"""An encoder's tokenizer as its checkpoint means it, which is not always what ``tokenizer.json`` says alone."""

from pathlib import Path

from tokenizers import normalizers

from fathom_export.encoder.architecture import EncoderArchitecture
from fathom_server.text.tokenizer import TOKENIZER_FILE, TextTokenizer


def load_tokenizer(source: Path, architecture: EncoderArchitecture) -> TextTokenizer:
    """Load the tokenizer; where sentence-transformers lowers texts first (``do_lower_case``), so does it."""
    tokenizer = TextTokenizer.load(source)
    if architecture.lower_case:
        others = [tokenizer.tokenizer.normalizer] if tokenizer.tokenizer.normalizer is not None else []
        tokenizer.tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *others])
    return tokenizer


def write_lowering(source: Path, architecture: EncoderArchitecture, version: Path) -> None:
    """Where texts are lowered first, write that into the tokenizer of a model's version folder."""
    if architecture.lower_case:
        load_tokenizer(source, architecture).tokenizer.save(str(version / TOKENIZER_FILE))
