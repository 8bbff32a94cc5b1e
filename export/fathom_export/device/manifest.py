"""A bundle's ``manifest.json``: all that a program must know to generate from it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from fathom_export.device.measure import MemoryUse
from fathom_server.engine.settings import GRAPH_FILE
from fathom_server.text.tokenizer import TOKENIZER_FILE, TextError, TextTokenizer

MANIFEST_FILE: Final = "manifest.json"
FORMAT: Final = 1

_MARK: Final = "fathom-content-mark"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Form of the graph, ends of an answer, and where all of it came from.

    ``chat`` is what the chat template puts before and behind one message of a user; None where there is no template.
    The cache is float32 [1, ``kv_heads``, ``max_context``, ``head_dim``] for each layer's keys and values. ``session``
    are ONNX Runtime's session options by name. ``files`` are SHA-256 sums by name, ``memory`` what was measured.
    """

    name: str
    precision: str
    block_size: int | None
    layers: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_context: int
    prefill_chunk: int
    eos_token_ids: tuple[int, ...]
    chat: tuple[str, str] | None
    session: dict[str, str]
    source: dict[str, str | None]
    versions: dict[str, str]
    graph: str = GRAPH_FILE
    tokenizer: str = TOKENIZER_FILE
    format: int = FORMAT
    files: dict[str, str] = field(default_factory=dict)
    memory: MemoryUse | None = None

    def save(self, folder: Path) -> None:
        """Write it into a bundle."""
        content: dict[str, Any] = asdict(self)
        (folder / MANIFEST_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def chat_frame(tokenizer: TextTokenizer) -> tuple[str, str] | None:
    """What a chat template puts around one message; None where there is none, or where it changes the message."""
    if not tokenizer.has_chat_template:
        return None
    try:
        parts = tokenizer.render([{"role": "user", "content": _MARK}]).split(_MARK)
    except TextError:
        return None
    return (parts[0], parts[1]) if len(parts) == 2 else None
