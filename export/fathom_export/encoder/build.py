"""From a sentence-transformers folder to ``model.onnx``, checked against the source."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fathom_export.encoder.sentence_model import SentenceModel
from fathom_export.errors import MissingExtraError
from fathom_export.graph_file import read_opsets
from fathom_export.spec import Precision
from fathom_server.engine.settings import GRAPH_FILE

OPSET: Final = 21
"""The first whose QuantizeLinear takes a scale for each row, and one that every onnxruntime backend since Triton 24.10
(ONNX Runtime 1.19) loads. Opset 23 would keep one Attention node a layer, but measured no faster on CPU."""


@dataclass(frozen=True, slots=True)
class EncoderGraph:
    """An exported encoder: what it is, its operator sets, and the cosines that its check found."""

    model: SentenceModel
    opsets: dict[str, int]
    check: dict[str, float]


def build_encoder(
    source: Path,
    destination: Path,
    *,
    precision: Precision,
    on_progress: Callable[[int, int], None] | None = None,
) -> EncoderGraph:
    """Write ``model.onnx`` into the folder ``destination``, which must exist.

    The graph takes ``input_ids`` and ``attention_mask``, int64 [batch, sequence], and gives ``sentence_embedding``,
    float32 [batch, dimension]. In int8 a text's embedding does not depend on its neighbours either.
    ``on_progress`` is called with the stages done and their total.

    Raises CheckpointError, SourceError or UnsupportedArchitectureError for the source, MissingExtraError without torch
    and transformers, ParityError if the graph's embeddings stray from the source's.
    """
    model = SentenceModel.load(source)
    report = on_progress or (lambda done, total: None)
    stages = 4 if precision == "int8" else 3
    try:
        from fathom_export.encoder.torch_model import export_to_onnx, load_torch_model
    except ImportError as error:
        raise MissingExtraError(
            f"encoders are exported by torch, but {error.name or error} is not installed; run: pip install "
            "'fathom-export[torch]'"
        ) from error
    from fathom_export.encoder.parity import check_parity, reference_embeddings
    from fathom_export.encoder.quantise import quantise_to_int8

    torch_model = load_torch_model(model)
    reference = reference_embeddings(torch_model, source)
    report(1, stages)
    graph = destination / GRAPH_FILE
    export_to_onnx(torch_model, graph, OPSET)
    report(2, stages)
    if precision == "int8":
        quantise_to_int8(graph)
        report(3, stages)
    check = check_parity(graph, reference, precision)
    report(stages, stages)
    return EncoderGraph(model, read_opsets(graph), check)
