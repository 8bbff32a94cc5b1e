"""The transformer of an encoder: which kind, how long its texts may be, and what its tokenizer must give it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from fathom_export.errors import CheckpointError, SourceError, UnsupportedArchitectureError
from fathom_export.sources.folder import CONFIG_FILE, MAX_JSON_BYTES, read_json
from fathom_server.text.tokenizer import TOKENIZER_CONFIG_FILE

ARCHITECTURES: Final = (
    "bert",
    "camembert",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
"""Values of ``model_type`` that can be exported."""

MODULES_FILE: Final = "modules.json"
MODULES_PACKAGE: Final = "sentence_transformers."

_LENGTH_FILE: Final = "sentence_bert_config.json"
_WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json")
_PADDING: Final = {"camembert": 1, "modernbert": 50283, "mpnet": 1, "roberta": 1, "xlm-roberta": 1}
"""Padding ids of configs that name none, as transformers has them; 0 for the others."""
_OFFSET_POSITIONS: Final = ("camembert", "mpnet", "roberta", "xlm-roberta")
"""Architectures whose positions begin after the padding id, so that not every one of them is usable."""
_TOKEN_TYPES: Final = ("bert", "electra")
"""Architectures whose tokenizers tell the two texts of a pair apart by token types."""


@dataclass(frozen=True, slots=True)
class EncoderArchitecture:
    """An encoder's transformer.

    ``folder`` holds config.json and weights; ``max_context`` is the most tokens of a text or pair, special tokens
    included; ``has_token_types`` says whether pairs come with token types; ``lower_case`` that texts are lowered
    before the tokenizer's own normalisation.
    """

    folder: Path
    model_type: str
    hidden_size: int
    max_context: int
    pad_token_id: int
    vocabulary: int
    has_token_types: bool
    lower_case: bool

    @classmethod
    def load(cls, source: Path, folder: Path) -> Self:
        """Read the transformer in ``folder`` of the checkpoint ``source``.

        Raises SourceError, CheckpointError or UnsupportedArchitectureError naming file and remedy.
        """
        path = folder / CONFIG_FILE
        config = read_json(path)
        model_type = str(config.get("model_type"))
        _check_supported(path, config, model_type)
        _check_weights(folder)
        try:
            pad_token_id = config.get("pad_token_id")
            pad_token_id = _PADDING.get(model_type, 0) if pad_token_id is None else int(pad_token_id)
            positions = int(config.get("max_position_embeddings", 512))
            hidden_size = int(config.get("hidden_size") or config["dim"])
            vocabulary = int(config["vocab_size"])
            token_types = int(config.get("type_vocab_size") or 1)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not a config of {model_type} ({error!r}); download it again") from error
        if model_type in _OFFSET_POSITIONS:
            positions -= pad_token_id + 1
        if positions < 1 or hidden_size < 1 or vocabulary < 1:
            raise CheckpointError(
                f"{path} gives {positions} positions, hidden size {hidden_size} and {vocabulary} tokens; all must be "
                "at least 1"
            )
        tokenizer = _optional_json(source / TOKENIZER_CONFIG_FILE)
        length = _optional_json(source / _LENGTH_FILE)
        inputs = tokenizer.get("model_input_names")
        return cls(
            folder=folder,
            model_type=model_type,
            hidden_size=hidden_size,
            # a file of its own, since sentence-transformers 6 in the tokenizer's
            max_context=min(
                positions, _length(length, "max_seq_length") or _length(tokenizer, "model_max_length") or positions
            ),
            pad_token_id=pad_token_id,
            vocabulary=vocabulary,
            has_token_types=model_type in _TOKEN_TYPES
            and token_types > 1
            and (not isinstance(inputs, list) or "token_type_ids" in inputs),
            lower_case=bool(length.get("do_lower_case", False)),
        )


def read_modules(source: Path) -> list[tuple[str, Path]] | None:
    """Kind and folder of each module that sentence-transformers chains, in order; None for a folder without a list.

    Raises SourceError for a list that cannot be read and UnsupportedArchitectureError for code of the source's own.
    """
    path = source / MODULES_FILE
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes; at most {MAX_JSON_BYTES} are read")
        modules = sorted(json.loads(path.read_text(encoding="utf-8")), key=lambda module: int(module["idx"]))
        listed = [(str(module["type"]), str(module["path"])) for module in modules]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read ({error!r}); download the checkpoint again") from error
    for kind, place in listed:
        if not kind.startswith(MODULES_PACKAGE):
            raise UnsupportedArchitectureError(
                f"{path} asks for {kind}, which is code of the source's own; code of a source is never run"
            )
        if not (source / place).resolve().is_relative_to(source.resolve()):
            raise SourceError(f"{path} names the folder {place!r}, which lies outside of the checkpoint")
    return [(kind.rsplit(".", 1)[-1], source / place) for kind, place in listed]


def _check_supported(path: Path, config: dict[str, Any], model_type: str) -> None:
    if config.get("auto_map"):
        wanted = ", ".join(map(str, config["auto_map"]))
        raise UnsupportedArchitectureError(
            f"{path} asks for code of the source's own (auto_map: {wanted}); code of a source is never run. Encoders "
            f"that can be exported: {', '.join(ARCHITECTURES)}"
        )
    if model_type not in ARCHITECTURES:
        raise UnsupportedArchitectureError(
            f"{path}: model_type {model_type!r} is no encoder that can be exported; supported: "
            f"{', '.join(ARCHITECTURES)}"
        )
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UnsupportedArchitectureError(
            f"{path}: position_embedding_type {positions!r} of {model_type} cannot be exported; supported: absolute"
        )


def _check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors, in the decoders' words, before torch is imported."""
    if not any((folder / name).is_file() for name in _WEIGHTS):
        from fathom_export.decoder.checkpoint import Checkpoint

        Checkpoint.open(folder)  # raises CheckpointError saying what there is instead
        raise CheckpointError(f"{folder} holds no weights in safetensors")


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _length(config: dict[str, Any], key: str) -> int | None:
    """A text length that is one: tokenizers without a limit say 10^30."""
    value = config.get(key)
    return int(value) if isinstance(value, (int, float)) and 0 < value < 1 << 31 else None
