"""From an encoder's checkpoint to ``model.onnx``, checked against the source."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fathom_export.decoder.graph_writer import GRAPH_DATA_SUFFIX
from fathom_export.encoder.form import EncoderForm, EncoderTask
from fathom_export.encoder.sentence_model import SentenceModel
from fathom_export.encoder.tokenizer import load_tokenizer
from fathom_export.errors import MissingExtraError
from fathom_export.graph_file import read_opsets
from fathom_export.spec import Precision
from fathom_export.spec.quantisation import EncoderQuantisation
from fathom_server.engine.runner.load import served_graph
from fathom_server.engine.settings import GRAPH_FILE

if TYPE_CHECKING:
    from fathom_server.text.tokenizer import TextTokenizer

OPSET: Final = 21
"""The first whose QuantizeLinear takes a scale for each row, and one that every onnxruntime backend since Triton 24.10
(ONNX Runtime 1.19) loads. Opset 23 would keep one Attention node a layer, but measured no faster on CPU."""


@dataclass(frozen=True, slots=True)
class EncoderGraph:
    """An exported encoder: its form, its operator sets, and the figures of its check."""

    form: EncoderForm
    opsets: dict[str, int]
    check: dict[str, float]


def build_encoder(
    source: Path,
    destination: Path,
    *,
    precision: Precision,
    task: EncoderTask = "embed",
    quantisation: EncoderQuantisation | None = None,
    fp32_copy: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EncoderGraph:
    """Write ``model.onnx`` into the folder ``destination``, which must exist.

    The graph takes ``input_ids``, ``attention_mask`` and, for pairs of an architecture that tells them apart so,
    ``token_type_ids``, int64 [batch, sequence], padded at the end. It gives float32 ``sentence_embedding`` [batch,
    dimension] (embed), ``score`` [batch, 1] (rerank) or ``scores`` [batch, labels] (classify). In int8, too, no row
    depends on its neighbours; fp8 is calibrated, and ``quantisation.json`` says on what. ``fp32_copy`` is a folder that
    is made for the graph as it is before its precision is lowered. ``on_progress`` is called with the stages done and
    their total.

    Raises CheckpointError, SourceError or UnsupportedArchitectureError for the source, SpecError for the calibration
    text, MissingExtraError without torch and transformers, ParityError if the graph's outputs stray from the source's.
    """
    form = EncoderForm.load(source, task)
    report = on_progress or (lambda done, total: None)
    stages = 3 if precision == "fp32" else 4
    try:
        from fathom_export.encoder.torch_model import export_to_onnx, load_classifier, load_sentence_encoder
    except ImportError as error:
        raise MissingExtraError(
            f"encoders are exported by torch, but {error.name or error} is not installed; run: pip install "
            "'fathom-export[torch]'"
        ) from error
    from fathom_export.encoder.parity import check_parity, reference_outputs

    model = form.model
    torch_model = (
        load_sentence_encoder(model, destination)
        if isinstance(model, SentenceModel)
        else load_classifier(model, destination)
    )
    tokenizer = load_tokenizer(source, form.architecture)
    reference = reference_outputs(torch_model, tokenizer, form)
    report(1, stages)
    graph = destination / GRAPH_FILE
    if precision == "fp32":
        export_to_onnx(torch_model, graph, OPSET, form.inputs, form.output.name)
    else:
        with _folder(fp32_copy, destination) as folder:
            export_to_onnx(torch_model, folder / GRAPH_FILE, OPSET, form.inputs, form.output.name)
            del torch_model
            report(2, stages)
            _lower(folder / GRAPH_FILE, graph, form, tokenizer, precision, quantisation or EncoderQuantisation())
    report(stages - 1, stages)
    check = check_parity(graph, reference, precision, form.output.name)
    native = served_graph(destination)
    if native != GRAPH_FILE:
        found = check_parity(destination / native, reference, precision, form.output.name)
        check |= {f"native_{name}": value for name, value in found.items()}
    report(stages, stages)
    return EncoderGraph(form, read_opsets(graph), check)


@contextmanager
def _folder(kept: Path | None, beside: Path) -> Iterator[Path]:
    """A new folder: ``kept``, or one in ``beside`` that is removed at the end."""
    if kept is not None:
        kept.mkdir()
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="float32-", dir=beside) as name:
        yield Path(name)


def _lower(
    float32: Path,
    graph: Path,
    form: EncoderForm,
    tokenizer: "TextTokenizer",
    precision: Precision,
    quantisation: EncoderQuantisation,
) -> None:
    """Write a float32 graph file in another precision to ``graph``, which lies in another folder."""
    if precision == "int8":
        from fathom_export.encoder.quantise import quantise_to_int8

        quantise_to_int8(float32, graph)
        return
    import onnx_ir as ir

    from fathom_export.quantise.float16 import to_float16
    from fathom_export.quantise.fp8 import insert_fp8
    from fathom_export.quantise.lowering import write_report

    calibration = None
    if precision == "fp8":
        from fathom_export.encoder.calibration import calibrate

        calibration = calibrate(float32, form, tokenizer, quantisation)
        write_report(graph.parent, calibration.report)
    model = ir.load(float32)
    if calibration is not None:
        insert_fp8(model.graph, calibration.scales, calibration.skipped)
    to_float16(model)
    ir.save(model, graph, external_data=f"{graph.name}{GRAPH_DATA_SUFFIX}")
