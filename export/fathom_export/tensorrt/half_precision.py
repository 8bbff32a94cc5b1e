"""A float32 graph file in float16, for a plan of a graph that was exported in fp32."""

from pathlib import Path
from typing import Final

from fathom_export.errors import PlanError

_DATA_SUFFIX: Final = ".data"


def is_float32(graph: Path) -> bool:
    """Whether a graph file computes its matrix products in float32."""
    import onnx_ir as ir

    from fathom_export.quantise import float16

    return float16.is_float32(ir.load(graph))


def write_half(graph: Path, destination: Path) -> None:
    """Write a float32 graph in float16, its weights beside it, piece by piece.

    Raises PlanError where the graph is of no form that can be lowered, CheckpointError for a weight beyond float16.
    """
    import onnx_ir as ir

    from fathom_export.quantise.float16 import to_float16

    model = ir.load(graph)
    try:
        to_float16(model)
    except ValueError as error:
        raise PlanError(f"{graph} cannot be lowered to float16: {error}; export it again with fathom-export") from error
    ir.save(model, destination, external_data=destination.name + _DATA_SUFFIX)
