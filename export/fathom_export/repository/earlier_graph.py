"""The graph of a version that is there already, for one that differs from it only in how it is served."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PATTERNS: Final = ("model.onnx*", "model.native.onnx", "quality.*", "quantisation.json")


@dataclass(frozen=True, slots=True)
class EarlierGraph:
    """A version's ``folder``, its operator sets, and the figures of its check."""

    folder: Path
    opsets: Mapping[str, int]
    check: Mapping[str, float]

    def link_into(self, version: Path) -> None:
        """Give another version's folder the graph, its weights and its card: hard links where there are any."""
        for path in sorted({path for pattern in _PATTERNS for path in self.folder.glob(pattern)}):
            try:
                os.link(path, version / path.name)
            except OSError:
                shutil.copy2(path, version / path.name)
