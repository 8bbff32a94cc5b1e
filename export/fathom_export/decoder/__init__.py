"""Decoder language models: from config.json and safetensors to an ONNX graph, without torch or transformers."""

from fathom_export.decoder.architecture import DecoderArchitecture, eos_token_ids
from fathom_export.decoder.build import DecoderDialect, DecoderPrecision, build_decoder

__all__ = [
    "DecoderArchitecture",
    "DecoderDialect",
    "DecoderPrecision",
    "build_decoder",
    "eos_token_ids",
]
