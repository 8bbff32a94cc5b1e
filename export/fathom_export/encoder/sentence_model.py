"""What a sentence-transformers folder says about itself: transformer, pooling, normalisation, length."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from fathom_export.errors import CheckpointError, SourceError, UnsupportedArchitectureError
from fathom_export.sources.folder import CONFIG_FILE, read_json
from fathom_server.text.tokenizer import TOKENIZER_CONFIG_FILE

Pooling = Literal["mean", "cls"]

ARCHITECTURES: Final = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
"""Values of ``model_type`` whose last hidden state a sentence embedding is pooled from."""

_MODULES_FILE: Final = "modules.json"
_LENGTH_FILE: Final = "sentence_bert_config.json"
_WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json")
_POOLING_FLAGS: Final[dict[str, Pooling]] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_OFFSET_POSITIONS: Final = ("camembert", "mpnet", "roberta", "xlm-roberta")
"""Architectures whose positions begin after the padding id, so that not every one of them is usable."""


@dataclass(frozen=True, slots=True)
class SentenceModel:
    """A sentence encoder's form.

    ``dimension`` is the length of an embedding; ``max_context`` the most tokens of a text, special tokens included;
    ``transformer`` the folder of config.json and weights.
    """

    transformer: Path
    architecture: str
    dimension: int
    max_context: int
    pooling: Pooling
    normalise: bool
    pad_token_id: int
    vocabulary: int

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder. Raises SourceError, CheckpointError or UnsupportedArchitectureError naming file and remedy."""
        modules = _read_modules(folder)
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
        strange = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
        if strange or kinds[:1] != ["Transformer"]:
            raise UnsupportedArchitectureError(
                f"{folder / _MODULES_FILE} lists {', '.join(kinds) or 'no modules'}; supported: Transformer, then "
                "Pooling, then optionally Normalize"
            )
        transformer = folder / modules[0]["path"]
        config = read_json(transformer / CONFIG_FILE)
        architecture = str(config.get("model_type"))
        if architecture not in ARCHITECTURES:
            raise UnsupportedArchitectureError(
                f"{transformer / CONFIG_FILE}: model_type {architecture!r} is no encoder that can be exported; "
                f"supported: {', '.join(ARCHITECTURES)}"
            )
        _check_weights(transformer)
        pad_token_id = int(config.get("pad_token_id") or 0)
        positions = int(config["max_position_embeddings"]) if "max_position_embeddings" in config else 512
        if architecture in _OFFSET_POSITIONS:
            positions -= pad_token_id + 1
        return cls(
            transformer=transformer,
            architecture=architecture,
            dimension=int(config.get("hidden_size") or config["dim"]),
            max_context=min(positions, _configured_length(folder) or positions),
            pooling=_read_pooling(folder, modules, kinds),
            normalise="Normalize" in kinds,
            pad_token_id=pad_token_id,
            vocabulary=int(config["vocab_size"]),
        )


def _read_modules(folder: Path) -> list[dict[str, str]]:
    """Modules of the folder; a bare transformer counts as one with mean pooling, as sentence-transformers takes it."""
    path = folder / _MODULES_FILE
    if not path.is_file():
        return [{"type": "Transformer", "path": ""}]
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        ordered = sorted(modules, key=lambda module: int(module["idx"]))
        return [{"type": str(module["type"]), "path": str(module["path"])} for module in ordered]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path} cannot be read ({error!r}); download the checkpoint again") from error


def _read_pooling(folder: Path, modules: list[dict[str, str]], kinds: list[str]) -> Pooling:
    if "Pooling" not in kinds:
        return "mean"
    path = folder / modules[kinds.index("Pooling")]["path"] / CONFIG_FILE
    config = read_json(path)
    if "pooling_mode" in config:  # sentence-transformers 6 names the mode, earlier versions set flags
        modes = config["pooling_mode"] if isinstance(config["pooling_mode"], list) else [config["pooling_mode"]]
    else:
        modes = [
            _POOLING_FLAGS.get(key, key) for key, value in config.items() if key.startswith("pooling_mode_") and value
        ]
    if len(modes) == 1 and modes[0] in ("mean", "cls"):
        pooling: Pooling = modes[0]
        return pooling
    raise UnsupportedArchitectureError(
        f"{path} asks for pooling {', '.join(map(str, modes)) or 'of no kind'}; supported: mean, cls (exactly one)"
    )


def _configured_length(folder: Path) -> int | None:
    """The text length that the folder sets: in a file of its own, since sentence-transformers 6 in the tokenizer's."""
    for name, key in ((_LENGTH_FILE, "max_seq_length"), (TOKENIZER_CONFIG_FILE, "model_max_length")):
        length: Any = read_json(folder / name).get(key) if (folder / name).is_file() else None
        if length:
            return int(length)
    return None


def _check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors, in the decoders' words, before torch is imported."""
    if not any((folder / name).is_file() for name in _WEIGHTS):
        from fathom_export.decoder.checkpoint import Checkpoint

        Checkpoint.open(folder)  # raises CheckpointError saying what there is instead
        raise CheckpointError(f"{folder} holds no weights in safetensors")
