"""Text encoders: from a checkpoint's folder to one ONNX graph that embeds, scores pairs, or classifies."""

from fathom_export.encoder.build import EncoderGraph, build_encoder
from fathom_export.encoder.classifier_model import ClassifierModel
from fathom_export.encoder.form import EncoderForm, EncoderTask
from fathom_export.encoder.sentence_model import SentenceModel

__all__ = ["ClassifierModel", "EncoderForm", "EncoderGraph", "EncoderTask", "SentenceModel", "build_encoder"]
