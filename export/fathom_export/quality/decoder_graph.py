"""A decoder graph's logits and inner tensors over a whole text, on ONNX Runtime's CPU provider."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom_export.quality.session import open_session
from fathom_server.engine import settings as names
from fathom_server.engine.settings import GRAPH_FILE, EngineSettings, GraphDescription

Array = npt.NDArray[Any]


class DecoderGraph:
    """A graph that computes texts of up to its context from their beginning, one at a time.

    ``options`` are ONNX Runtime's session options by name. ``content`` is a changed graph over the same weights.
    """

    def __init__(
        self,
        folder: Path,
        description: GraphDescription,
        options: Mapping[str, str],
        *,
        threads: int = 0,
        content: bytes | None = None,
    ) -> None:
        self.description = description
        self._session = open_session(folder / GRAPH_FILE if content is None else content, folder, options, threads)
        self._cache: list[tuple[Array, Array]] = []

    def logits(self, token_ids: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after the tokens at some positions: float32 [positions, vocabulary]."""
        (logits,) = self.run(token_ids, positions, (names.LOGITS,))
        return np.asarray(logits[0], dtype=np.float32)

    def run(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        outputs: Sequence[str],
        given: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        """Any outputs of the graph over one text, logits at the positions; ``given`` feeds further inputs."""
        length = len(token_ids)
        feeds: dict[str, Array] = {
            names.INPUT_IDS: np.array([token_ids], dtype=np.int64),
            names.LOGIT_POSITIONS: np.array([positions], dtype=np.int64),
            **(given or {}),
        }
        if self.description.dialect == "cpu":
            feeds[names.SEQLENS_K] = np.array([length - 1], dtype=np.int32)
            feeds[names.TOTAL_SEQUENCE_LENGTH] = np.array(length, dtype=np.int32)
        else:
            feeds[names.WRITE_INDICES] = np.zeros(1, dtype=np.int64)
            feeds[names.POSITION_IDS] = np.arange(length, dtype=np.int64)[np.newaxis]
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for layer, parts in enumerate(self._cache_for(length)):
            for part, memory in zip(("key", "value"), parts, strict=True):
                place = ("cpu", 0, memory.dtype.type, memory.shape, memory.ctypes.data)
                binding.bind_input(names.past_name(layer, part), *place)  # type: ignore[arg-type]
                binding.bind_output(names.present_name(layer, part), *place)  # type: ignore[arg-type]
        for name in outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        found: list[Array] = [value.numpy() for value in binding.get_outputs()[-len(outputs) :]]
        return found

    def output_types(self) -> dict[str, str]:
        """ONNX Runtime's name for each output's type, such as ``tensor(float16)``."""
        return {output.name: output.type for output in self._session.get_outputs()}

    def _cache_for(self, length: int) -> list[tuple[Array, Array]]:
        """Cache buffers for one text: of its own length in the cpu dialect, static in the portable one.

        What another text left in them is overwritten or out of this one's sight.
        """
        form = self.description
        capacity = length if form.dialect == "cpu" else form.max_context
        if not self._cache or self._cache[0][0].shape[2] != capacity:
            shape = (1, form.kv_heads, capacity, form.head_dim)
            dtype = np.dtype(form.kv_dtype)
            self._cache = [(np.zeros(shape, dtype), np.zeros(shape, dtype)) for _ in range(form.layers)]
        return self._cache


class FlatGraph:
    """A native or cuda graph of a version's folder, as it is served; computes whole texts, one at a time."""

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        from fathom_server.engine.runner.load import load_runner

        self._runner = load_runner(folder, replace(settings, limits=replace(settings.limits, max_batch=1)))

    def logits(self, token_ids: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after the tokens at some positions: float32 [positions, vocabulary]."""
        from fathom_server.engine.runner.base import StepRow

        if not positions:
            return self._runner.step([StepRow(self._blocks(token_ids), 0, token_ids, 0)]).copy()
        first, end = min(positions), max(positions) + 1
        row = StepRow(self._blocks(token_ids), 0, token_ids[:end], end - first)
        return self._runner.step([row])[[position - first for position in positions]]

    def _blocks(self, token_ids: Sequence[int]) -> range:
        return range(-(-len(token_ids) // self._runner.geometry.block_tokens))
