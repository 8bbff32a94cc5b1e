"""The source model in torch, with all that follows the transformer, and its way to ONNX."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
import transformers
from safetensors.torch import load_file

from fathom_export.decoder.graph_writer import GRAPH_DATA_SUFFIX
from fathom_export.encoder.architecture import EncoderArchitecture
from fathom_export.encoder.classifier_model import Activation, ClassifierModel
from fathom_export.encoder.float32_source import in_float32
from fathom_export.encoder.sentence_model import (
    WEIGHTS_FILE,
    Dense,
    Layer,
    LayerNorm,
    Normalise,
    Pooling,
    SentenceModel,
)
from fathom_export.errors import CheckpointError
from fathom_export.quantise.derived import transposed
from fathom_export.quantise.products import add_initializer, sizes, stored

_UNUSED_BY_EMBEDDINGS = "pooler."


class SentenceEncoder(torch.nn.Module):
    """Transformer, pooling and the layers behind it in one module, as sentence-transformers chains them."""

    def __init__(
        self, transformer: torch.nn.Module, pooling: tuple[Pooling, ...], layers: Sequence[torch.nn.Module]
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.pooling = pooling
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """int64 [batch, sequence] twice, padded at the end → float32 [batch, dimension]; token types are all zero."""
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = torch.cat([_pool(mode, hidden, attention_mask) for mode in self.pooling], dim=-1)
        result: torch.Tensor = self.layers(pooled)
        return result


class Classifier(torch.nn.Module):
    """Transformer, classification head and activation in one module."""

    def __init__(self, transformer: torch.nn.Module, activation: Activation) -> None:
        super().__init__()
        self.transformer = transformer
        self.activation = activation

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """int64 [batch, sequence], two or three times → float32 [batch, labels]."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: torch.Tensor = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        if self.activation == "softmax":
            return torch.softmax(logits, dim=-1)
        return torch.sigmoid(logits) if self.activation == "sigmoid" else logits


class _Dense(torch.nn.Module):
    def __init__(self, layer: Dense) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias)
        self.activation = getattr(torch.nn, layer.activation)()
        self.is_residual = layer.residual
        if layer.residual and layer.in_features != layer.out_features:
            self.residual = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.activation(self.linear(embedding))
        if not self.is_residual:
            return projected
        shortcut = self.residual(embedding) if hasattr(self, "residual") else embedding
        return projected + shortcut


class _LayerNorm(torch.nn.Module):
    def __init__(self, layer: LayerNorm) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(layer.dimension)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(embedding)
        return normed


class _Normalise(torch.nn.Module):
    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(embedding, p=2.0, dim=-1)


def load_sentence_encoder(model: SentenceModel, work: Path) -> SentenceEncoder:
    """Load a sentence encoder in float32 from safetensors; raises CheckpointError if its weights cannot be read.

    They are mapped from the disk, from a float32 copy in the folder ``work`` where they are stored otherwise.
    """
    transformer = _load_transformer(transformers.AutoModel, model.architecture, work, unused=_UNUSED_BY_EMBEDDINGS)
    return SentenceEncoder(transformer, model.pooling, [_load_layer(layer) for layer in model.layers]).eval()


def load_classifier(model: ClassifierModel, work: Path) -> Classifier:
    """Load a classifier or reranker in float32 from safetensors, as above."""
    kind = transformers.AutoModelForSequenceClassification
    transformer = _load_transformer(kind, model.architecture, work, num_labels=len(model.labels))
    return Classifier(transformer, model.activation).eval()


def export_to_onnx(model: torch.nn.Module, path: Path, opset: int, inputs: Sequence[str], output: str) -> None:
    """Write the graph with both dimensions of its inputs, int64 [batch, sequence], left open.

    Weights go beside it, to ``path`` + ".data", one at a time; a graph with its weights inside ends at 2 GB.
    """
    shape = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("sequence", min=1)}
    with quiet():
        program = torch.onnx.export(
            model,
            tuple(torch.ones((2, 16), dtype=torch.int64) for _ in inputs),
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=dict.fromkeys(inputs, shape),
            verbose=False,
            optimize=False,
        )
        if program is None:
            raise CheckpointError(f"torch made no ONNX graph of {path.parent.name}")
        _fold_transposes(program.model.graph)
        program.optimize()
    ir.save(program.model, path, external_data=f"{path.name}{GRAPH_DATA_SUFFIX}")


def _fold_transposes(graph: ir.Graph) -> None:
    """Put transposed weights in the place of nodes that transpose weights; they are computed when they are written.

    The exporter's own optimiser would compute them all at once, and hold them.
    """
    for node in list(graph):
        matrix, swapped = node.inputs[0] if node.inputs else None, node.outputs[0]
        if (
            node.op_type != "Transpose"
            or matrix is None
            or matrix.const_value is None
            or len(sizes(stored(matrix))) != 2
        ):
            continue
        tensor = transposed(stored(matrix), str(swapped.name))
        swapped.replace_all_uses_with(add_initializer(graph, tensor))
        graph.remove(node, safe=True)


def _pool(mode: Pooling, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """One pooling of [batch, sequence, width] whose padding is at the end, as sentence-transformers defines it."""
    if mode == "cls":
        return hidden[:, 0]
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    if mode == "max":
        return hidden.masked_fill(mask == 0, float("-inf")).max(dim=1).values
    if mode == "lasttoken":
        last = attention_mask.sum(dim=1) - 1
        return hidden.gather(1, last.view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])).squeeze(1)
    if mode == "weightedmean":
        mask = mask * torch.cumsum(mask, dim=1)
    tokens = mask.sum(dim=1).clamp(min=1e-9)
    return (hidden * mask).sum(dim=1) / (tokens.sqrt() if mode == "mean_sqrt_len_tokens" else tokens)


def _load_transformer(
    kind: Any, architecture: EncoderArchitecture, work: Path, unused: str | None = None, **config: Any
) -> Any:
    with quiet(), in_float32(architecture.folder, work) as folder:
        try:
            transformer, report = kind.from_pretrained(
                folder,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                **config,
            )
        except Exception as error:  # safetensors, transformers and torch raise kinds of their own
            raise CheckpointError(
                f"{architecture.folder} cannot be loaded ({type(error).__name__}: {error}); download it again"
            ) from error
    missing = sorted(name for name in report["missing_keys"] if unused is None or not name.startswith(unused))
    if missing:
        raise CheckpointError(
            f"{architecture.folder} has no weights for {', '.join(missing[:3])}{' and others' * (len(missing) > 3)}; "
            "they would be random: download it again"
        )
    return transformer


def _load_layer(layer: Layer) -> torch.nn.Module:
    if isinstance(layer, Normalise):
        return _Normalise()
    module = _Dense(layer) if isinstance(layer, Dense) else _LayerNorm(layer)
    try:
        module.load_state_dict(load_file(layer.folder / WEIGHTS_FILE))
    except Exception as error:  # safetensors and torch raise kinds of their own
        raise CheckpointError(
            f"{layer.folder / WEIGHTS_FILE} does not fit its config ({' '.join(str(error).split())}); download it again"
        ) from error
    return module.float()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
