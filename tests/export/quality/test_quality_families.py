"""The comparison of layers on decoders whose norms stand elsewhere, in every precision."""

from pathlib import Path

import numpy as np
import pytest
from tests.export.decoder.checkpoints import write_checkpoint

from fathom_export.decoder import build_decoder
from fathom_export.quality.decoder_layers import compare_decoder_layers
from fathom_export.quality.session import session_options

KINDS = ("llama-tied", "gemma2", "gemma3-text", "olmo2", "granite", "phi3")
"""Norms before, norms before and after, norms after; soft caps, windows, multipliers, fused projections."""
TEXT = [int(token) for token in np.random.default_rng(2).integers(0, 300, 40)]


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp8"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_has_an_error_of_its_own(kind: str, precision: str, tmp_path: Path) -> None:
    """Embedding, each layer's attention and MLP, and the LM head are found and compared; none is exact or far off."""
    source = write_checkpoint(kind, tmp_path / "source")
    dialect = "cpu" if precision == "int8" else "portable"
    forms = []
    for name in ("fp32", precision):
        (tmp_path / name).mkdir()
        forms.append(build_decoder(source, tmp_path / name, dialect=dialect, precision=name, max_context=64))  # type: ignore[arg-type]
    paths = tmp_path / "fp32" / "model.onnx", tmp_path / precision / "model.onnx"
    errors = compare_decoder_layers(paths, forms[0], forms[1], session_options(precision), [TEXT])
    names = [error.layer for error in errors]
    layers = forms[0].layers
    wanted = [f"layer.{layer}.{part}" for layer in range(layers) for part in ("attention", "mlp")]
    assert names == ["embedding", *wanted, "lm_head"]
    assert all(0 <= error.relative_l2 < 0.6 for error in errors), errors
    assert sum(error.relative_l2 > 0 for error in errors) >= len(wanted) - 1
