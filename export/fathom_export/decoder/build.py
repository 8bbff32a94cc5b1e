"""From a checkpoint folder to a decoder graph: ``model.onnx`` and its weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from fathom_export.decoder.architecture import DecoderArchitecture
from fathom_export.errors import InvalidContextError, UnsupportedArchitectureError
from fathom_export.quantise.table import require_valid
from fathom_export.spec.quantisation import Quantisation
from fathom_server.engine.settings import (
    BLOCK_TOKENS,
    GRAPH_FILE,
    KV_DTYPE,
    NATIVE_GRAPH_FILE,
    SAMPLING_GRAPH_FILE,
    GraphDescription,
    KvDtype,
)

if TYPE_CHECKING:
    from fathom_export.decoder.graph_writer import GraphWriter
    from fathom_export.decoder.projections import Projections
    from fathom_export.decoder.weights import DecoderWeights

DecoderDialect = Literal["cpu", "portable", "cuda"]
DecoderPrecision = Literal["fp32", "fp16", "int8", "int4", "fp8"]

CPU_HEAD_MULTIPLE: Final = 16
"""ONNX Runtime's GroupQueryAttention with rotary inside takes no other head sizes."""

PRODUCER: Final = "fathom-export"


def build_decoder(
    source: Path,
    destination: Path,
    *,
    dialect: DecoderDialect,
    precision: DecoderPrecision,
    quantisation: Quantisation | None = None,
    max_context: int | None = None,
    kv_cache_dtype: KvDtype = "int8",
    on_progress: Callable[[int, int], None] | None = None,
) -> GraphDescription:
    """Write ``model.onnx`` and ``model.onnx.data`` into the folder ``destination``, which must exist.

    Beside them ``model.native.onnx``, over the same weights, in the cpu dialect with precision int8 or int4: its
    operators are Fathom's own, its cache keeps ``kv_cache_dtype``. In the cuda dialect ``model.sampling.onnx``, which
    reduces logits on the device.

    ``source`` is a folder with config.json and safetensors. Weights are read, converted and written one tensor at a
    time. ``max_context`` is the context in tokens that the graph can hold, by default all that the model was made for.
    ``on_progress`` is called with the tensors written and their total.

    Raises CheckpointError, UnsupportedArchitectureError, InvalidPrecisionError or InvalidContextError before anything
    is written, CheckpointError or OSError while it is; then what was written is removed.
    """
    require_valid("generate", dialect, precision)
    quantisation = quantisation or Quantisation()
    quantisation.refuse_unused(precision, dialect)
    if precision == "int4" and quantisation.int4_method == "hqq":
        from fathom_export.quantise.int4 import require_hqq

        require_hqq()
    architecture = DecoderArchitecture.load(source)
    if dialect == "cpu":
        _refuse_head_sizes(architecture)
    context = _context(architecture, max_context)
    if dialect == "cuda":
        return _build_cuda(source, destination, architecture, precision, context, on_progress)

    from fathom_export.decoder.checkpoint import Checkpoint
    from fathom_export.decoder.cpu_dialect import CpuDialect
    from fathom_export.decoder.graph_writer import GraphWriter, remove_graph
    from fathom_export.decoder.portable_dialect import PortableDialect
    from fathom_export.decoder.projections import BlockInt4Projections, Float32Projections, RowwiseInt8Projections
    from fathom_export.decoder.stock_graph import write_stock_graph
    from fathom_export.decoder.weights import DecoderWeights
    from fathom_export.quantise.lowering import calibrate, lower, write_report

    checkpoint = Checkpoint.open(source)
    weights = DecoderWeights(checkpoint.text_part() if architecture.is_part else checkpoint, architecture)
    graph = GraphWriter(
        f"{architecture.model_type}_decoder",
        metadata={"dialect": dialect, "precision": precision},
        producer=PRODUCER,
        producer_version=_version(),
    )
    projections: Projections
    if precision == "int4":
        projections = BlockInt4Projections(graph, quantisation.block_size, quantisation.int4_method)
    else:
        projections = (RowwiseInt8Projections if precision == "int8" else Float32Projections)(graph)
    lowering = (CpuDialect if dialect == "cpu" else PortableDialect)(graph, architecture, weights, projections, context)
    write_stock_graph(graph, architecture, weights, projections, lowering)
    weights.refuse_unused()
    report: Mapping[str, object] = {}
    if dialect == "portable":
        calibration = calibrate(source, destination, precision, quantisation, context)
        lower(graph.model, precision, quantisation, calibration)
        report = calibration.report
    graph.save(destination / GRAPH_FILE, on_progress)
    if dialect == "cpu" and precision in ("int8", "int4"):
        del graph, projections, lowering  # before there is another one
        try:
            native = _native_graph(architecture, weights, precision, quantisation, context, kv_cache_dtype)
            native.save_over(destination / NATIVE_GRAPH_FILE, destination / GRAPH_FILE)
        except BaseException:
            remove_graph(destination / GRAPH_FILE)
            raise
    write_report(destination, report)
    return _description(architecture, dialect, precision, context)


def _build_cuda(
    source: Path,
    destination: Path,
    architecture: DecoderArchitecture,
    precision: DecoderPrecision,
    context: int,
    on_progress: Callable[[int, int], None] | None,
) -> GraphDescription:
    """The graph for ONNX Runtime on CUDA, and the one that reduces its logits."""
    from fathom_export.decoder import cuda_dialect, cuda_matrices
    from fathom_export.decoder.checkpoint import Checkpoint
    from fathom_export.decoder.graph_writer import GraphWriter, remove_graph
    from fathom_export.decoder.sampling_graph import write_sampling_graph
    from fathom_export.decoder.weights import DecoderWeights

    cuda_dialect.refuse_head_sizes(architecture)
    checkpoint = Checkpoint.open(source)
    weights = DecoderWeights(checkpoint.text_part() if architecture.is_part else checkpoint, architecture)
    metadata = {"dialect": "cuda", "precision": precision, BLOCK_TOKENS: str(cuda_dialect.BLOCK_TOKENS)}
    graph = GraphWriter(f"{architecture.model_type}_decoder", metadata, PRODUCER, _version())
    form = cuda_matrices.Fp8Matrices() if precision == "fp8" else cuda_matrices.HalfMatrices()
    cuda_dialect.CudaDecoder(graph, architecture, weights, form, context).write()
    weights.refuse_unused()
    sampling = GraphWriter("sampling", {"dialect": "cuda"}, PRODUCER, _version())
    write_sampling_graph(sampling, architecture.vocabulary)
    graph.save(destination / GRAPH_FILE, on_progress)
    try:
        sampling.save(destination / SAMPLING_GRAPH_FILE)
    except BaseException:
        remove_graph(destination / GRAPH_FILE)
        raise
    return _description(architecture, "cuda", precision, context)


def _native_graph(
    architecture: DecoderArchitecture,
    weights: "DecoderWeights",
    precision: DecoderPrecision,
    quantisation: Quantisation,
    context: int,
    kv_dtype: KvDtype,
) -> "GraphWriter":
    """The graph in Fathom's operators, of weights that the stock graph stores."""
    from fathom_export.decoder import native_dialect, native_matrices
    from fathom_export.decoder.graph_writer import GraphWriter

    metadata = {"dialect": "native", "precision": precision}
    metadata |= {BLOCK_TOKENS: str(native_dialect.BLOCK_TOKENS), KV_DTYPE: kv_dtype}
    graph = GraphWriter(f"{architecture.model_type}_decoder", metadata, PRODUCER, _version())
    form: native_matrices.NativeMatrices = (
        native_matrices.BlockwiseInt4(quantisation.block_size, quantisation.int4_method)
        if precision == "int4"
        else native_matrices.ColumnwiseInt8()
    )
    native_dialect.NativeDecoder(graph, architecture, weights, form, context, kv_dtype).write()
    return graph


def _description(
    architecture: DecoderArchitecture, dialect: DecoderDialect, precision: DecoderPrecision, context: int
) -> GraphDescription:
    """What engine.json says of the stock graph."""
    return GraphDescription(
        dialect=dialect,
        precision=precision,
        layers=architecture.layers,
        kv_heads=architecture.kv_heads,
        head_dim=architecture.head_dim,
        vocabulary=architecture.vocabulary,
        max_context=context,
        kv_dtype="float16" if precision in ("fp16", "fp8") else "float32",
    )


def _refuse_head_sizes(architecture: DecoderArchitecture) -> None:
    """Raise UnsupportedArchitectureError for head sizes that the cpu dialect's attention does not take."""
    ropes = [form.rope for form in architecture.layer_forms if form.rope is not None]
    sizes = {f"{rope.dimensions} rotary values a head": rope.dimensions for rope in ropes}
    for what, size in ({f"head_dim {architecture.head_dim}": architecture.head_dim} | sizes).items():
        if size % CPU_HEAD_MULTIPLE:
            raise UnsupportedArchitectureError(
                f"{what} of this {architecture.model_type} is not supported in the cpu dialect, whose attention takes "
                f"multiples of {CPU_HEAD_MULTIPLE}; use the portable dialect"
            )


def _context(architecture: DecoderArchitecture, max_context: int | None) -> int:
    context = architecture.context_limit if max_context is None else max_context
    if not 1 <= context <= architecture.max_positions:
        raise InvalidContextError(
            f"max_context is {context}; this {architecture.model_type} takes 1 to {architecture.max_positions} tokens "
            "(max_position_embeddings)"
        )
    if context > architecture.context_limit:
        raise UnsupportedArchitectureError(
            f"longrope of this {architecture.model_type} changes every position beyond "
            f"{architecture.context_limit} tokens, which is not supported; set max_context to "
            f"{architecture.context_limit} or less (it is {context})"
        )
    return context


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(PRODUCER)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
