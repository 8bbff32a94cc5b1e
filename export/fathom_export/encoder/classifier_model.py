"""What a folder with a classification head says about itself: labels, or one score, and what makes them of logits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from fathom_export.encoder.architecture import MODULES_FILE, EncoderArchitecture, read_modules
from fathom_export.errors import CheckpointError, UnsupportedArchitectureError
from fathom_export.sources.folder import CONFIG_FILE, read_json

Activation = Literal["sigmoid", "softmax", "identity"]

_HEAD: Final = "ForSequenceClassification"
_CROSS_ENCODER_FILE: Final = "config_sentence_transformers.json"
_ACTIVATIONS: Final[dict[str, Activation]] = {"Sigmoid": "sigmoid", "Identity": "identity"}
_PROBLEM_TYPES: Final[dict[str, Activation]] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
}


@dataclass(frozen=True, slots=True)
class ClassifierModel:
    """A transformer with a sequence-classification head.

    ``labels`` are the names of its logits, in order, and ``activation`` what turns these into scores.
    """

    architecture: EncoderArchitecture
    labels: tuple[str, ...]
    activation: Activation

    @classmethod
    def load_reranker(cls, source: Path) -> Self:
        """Read a cross-encoder: pairs to one score, through the activation that its config names, by default sigmoid.

        Raises SourceError, CheckpointError or UnsupportedArchitectureError naming file and remedy.
        """
        architecture, config = _load(source)
        path = architecture.folder / CONFIG_FILE
        labels = _labels(path, config) or tuple("?" for _ in range(int(config.get("num_labels", 2))))
        if len(labels) != 1:
            raise UnsupportedArchitectureError(
                f"{path}: the head has {len(labels)} labels, and a reranker's has one; use task classify"
            )
        cross_encoder = _optional_json(source / _CROSS_ENCODER_FILE)
        if (cross_encoder.get("prompts") or {}).get(cross_encoder.get("default_prompt_name")):
            raise UnsupportedArchitectureError(
                f"{source / _CROSS_ENCODER_FILE} puts a prompt before pairs (default_prompt_name), which cannot be "
                "exported; remove default_prompt_name to do without it"
            )
        return cls(architecture, labels, _reranker_activation(source, config, cross_encoder))

    @classmethod
    def load_classifier(cls, source: Path) -> Self:
        """Read a classifier: one of its labels (softmax), or any of them (sigmoid), by its ``problem_type``.

        Raises SourceError, CheckpointError or UnsupportedArchitectureError naming file and remedy.
        """
        architecture, config = _load(source)
        path = architecture.folder / CONFIG_FILE
        labels = _labels(path, config)
        if not labels:
            raise CheckpointError(
                f'{path} names no labels; add "id2label" with one name for each output of the head, such as '
                '{"0": "negative", "1": "positive"}'
            )
        problem = config.get("problem_type")
        if problem is None:  # as transformers' pipeline chooses
            problem = "single_label_classification" if len(labels) > 1 else "multi_label_classification"
        if problem not in _PROBLEM_TYPES:
            raise UnsupportedArchitectureError(
                f"{path}: problem_type is {problem!r}, which has no labels; supported: {', '.join(_PROBLEM_TYPES)}"
            )
        return cls(architecture, labels, _PROBLEM_TYPES[problem])


def _load(source: Path) -> tuple[EncoderArchitecture, dict[str, Any]]:
    modules = read_modules(source)
    kinds = ["Transformer"] if modules is None else [kind for kind, _ in modules]
    if kinds != ["Transformer"]:
        raise UnsupportedArchitectureError(
            f"{source / MODULES_FILE} lists {', '.join(kinds)}; a reranker or classifier is a Transformer alone"
        )
    architecture = EncoderArchitecture.load(source, source if modules is None else modules[0][1])
    path = architecture.folder / CONFIG_FILE
    config = read_json(path)
    made = config.get("architectures") or []
    if not any(str(name).endswith(_HEAD) for name in made):
        raise UnsupportedArchitectureError(
            f"{path}: architectures is {', '.join(map(str, made)) or 'empty'}, which has no classification head; "
            f"rerank and classify need one of *{_HEAD}"
        )
    return architecture, config


def _labels(path: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """Names by their number, () if the config has none."""
    names = config.get("id2label") or {}
    try:
        numbered = {int(number): str(name) for number, name in names.items()}
    except (AttributeError, ValueError) as error:
        raise CheckpointError(f"{path}: id2label is {names!r}; it must be an object of names by number") from error
    if sorted(numbered) != list(range(len(numbered))):
        raise CheckpointError(
            f"{path}: id2label has the numbers {', '.join(map(str, sorted(numbered)))}; they must be 0 to "
            f"{len(numbered) - 1}"
        )
    if len(set(numbered.values())) < len(numbered):
        raise CheckpointError(f"{path}: id2label gives two labels the same name; rename one")
    return tuple(numbered[number] for number in range(len(numbered)))


def _reranker_activation(source: Path, config: dict[str, Any], cross_encoder: dict[str, Any]) -> Activation:
    """Where sentence-transformers 6, 4 and those before keep the name of the activation's class."""
    name = (
        cross_encoder.get("activation_fn")
        or (config.get("sentence_transformers") or {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
        or "torch.nn.modules.activation.Sigmoid"
    )
    kind = str(name).rsplit(".", 1)[-1]
    if not str(name).startswith("torch.nn.") or kind not in _ACTIVATIONS:
        raise UnsupportedArchitectureError(
            f"{source}: activation_fn {name!r} cannot be exported; supported: torch.nn's {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[kind]


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
