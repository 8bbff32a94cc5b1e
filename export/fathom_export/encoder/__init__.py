"""Text encoders: from a sentence-transformers folder to one ONNX graph with pooling and normalisation inside."""

from fathom_export.encoder.build import EncoderGraph, build_encoder
from fathom_export.encoder.sentence_model import SentenceModel

__all__ = ["EncoderGraph", "SentenceModel", "build_encoder"]
