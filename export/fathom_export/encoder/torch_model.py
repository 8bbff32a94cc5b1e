"""The source model in torch, pooling and normalisation included, and its way to ONNX."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

from fathom_client.protocol import ATTENTION_MASK, INPUT_IDS, SENTENCE_EMBEDDING
from fathom_export.encoder.sentence_model import SentenceModel
from fathom_export.errors import CheckpointError


class SentenceEncoder(torch.nn.Module):
    """Transformer, pooling and normalisation in one module, as sentence-transformers chains them."""

    def __init__(self, transformer: torch.nn.Module, *, pool_cls: bool, normalise: bool) -> None:
        super().__init__()
        self.transformer = transformer
        self.pool_cls = pool_cls
        self.normalise = normalise

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """int64 [batch, sequence] twice → float32 [batch, dimension]; token types are all zero."""
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pool_cls:
            pooled = hidden[:, 0]
        else:
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return torch.nn.functional.normalize(pooled, p=2.0, dim=1) if self.normalise else pooled


def load_torch_model(model: SentenceModel) -> SentenceEncoder:
    """Load the source in float32 from safetensors. Raises CheckpointError if its weights cannot be read."""
    with _quiet():
        try:
            transformer = transformers.AutoModel.from_pretrained(
                model.transformer,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
            )
        except Exception as error:  # safetensors, transformers and torch raise kinds of their own
            raise CheckpointError(
                f"{model.transformer} cannot be loaded ({type(error).__name__}: {error}); download it again"
            ) from error
    encoder = SentenceEncoder(transformer, pool_cls=model.pooling == "cls", normalise=model.normalise)
    return encoder.eval()


def export_to_onnx(model: SentenceEncoder, path: Path, opset: int) -> None:
    """Write the graph with both dimensions of its inputs left open."""
    example = torch.ones((2, 16), dtype=torch.int64)
    shape = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("sequence", min=1)}
    with _quiet():
        program = torch.onnx.export(
            model,
            (example, example.clone()),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_IDS, ATTENTION_MASK],
            output_names=[SENTENCE_EMBEDDING],
            dynamic_shapes={INPUT_IDS: shape, ATTENTION_MASK: shape},
            verbose=False,
        )
    if program is None:
        raise CheckpointError(f"torch made no ONNX graph of {path.parent.name}")
    program.save(path, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the chatter of torch's exporter and transformers' progress bars; errors still come through."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        if bars:
            transformers.utils.logging.enable_progress_bar()
