"""What an ONNX file says about itself."""

from pathlib import Path

from fathom_export.errors import ParityError


def read_opsets(graph: Path) -> dict[str, int]:
    """Operator sets that a graph uses, by domain; the standard one is ``ai.onnx``."""
    import onnx

    try:
        model = onnx.load(graph, load_external_data=False)
    except Exception as error:  # protobuf raises kinds of its own
        raise ParityError(f"{graph} is not an ONNX graph: {error}") from error
    return {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
