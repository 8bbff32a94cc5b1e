"""A float32 graph file in float16, for a plan of a graph that was exported in fp32."""

import shutil
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

    _own(graph.with_name(graph.name + _DATA_SUFFIX))
    model = ir.load(graph)
    try:
        to_float16(model)
    except ValueError as error:
        raise PlanError(f"{graph} cannot be lowered to float16: {error}; export it again with fathom-export") from error
    ir.save(model, destination, external_data=destination.name + _DATA_SUFFIX)


def _own(weights: Path) -> None:
    """Give weights that versions of a model share a file of their own: onnx_ir reads none of several hard links."""
    if not weights.exists() or weights.stat().st_nlink == 1:
        return
    copy = weights.with_name(f".{weights.name}.own")
    try:
        shutil.copy2(weights, copy)
        copy.replace(weights)
    finally:
        copy.unlink(missing_ok=True)
