"""What to build: the models of a ``bundle.toml``, or the one model that the command line names."""

from fathom_export.spec.bundle import DEFAULT_BUNDLE, DEFAULT_REPOSITORY, Bundle, read_bundle, read_model
from fathom_export.spec.limits import EncoderLimits
from fathom_export.spec.model_spec import (
    DEFAULT_CONTEXT,
    DEFAULT_DIALECT,
    BuiltSpec,
    CascadeSpec,
    ClassifySpec,
    EmbedSpec,
    EncoderSpec,
    GenerateSpec,
    ModelSpec,
    Precision,
    RerankSpec,
    Task,
    VllmSpec,
    model_names,
    spec_settings,
    weights_model,
)
from fathom_export.spec.serving import EncoderServing, Serving

__all__ = [
    "DEFAULT_BUNDLE",
    "DEFAULT_CONTEXT",
    "DEFAULT_DIALECT",
    "DEFAULT_REPOSITORY",
    "BuiltSpec",
    "Bundle",
    "CascadeSpec",
    "ClassifySpec",
    "EmbedSpec",
    "EncoderLimits",
    "EncoderServing",
    "EncoderSpec",
    "GenerateSpec",
    "ModelSpec",
    "Precision",
    "RerankSpec",
    "Serving",
    "Task",
    "VllmSpec",
    "model_names",
    "read_bundle",
    "read_model",
    "spec_settings",
    "weights_model",
]
