"""How large a checkpoint's weights and an exported graph are."""

from pathlib import Path

from fathom_server.engine.settings import GRAPH_FILE


def weight_bytes(source: Path) -> int:
    """Bytes of a checkpoint's safetensors."""
    return sum(path.stat().st_size for path in source.rglob("*.safetensors"))


def graph_bytes(version: Path) -> int:
    """Bytes of a graph and its weights."""
    return sum(path.stat().st_size for path in version.glob(f"{GRAPH_FILE}*"))
