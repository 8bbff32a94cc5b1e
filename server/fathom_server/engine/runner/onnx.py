"""A decoder graph on ONNX Runtime's CPU provider, its cache bound in place."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from fathom_server.engine import settings as names
from fathom_server.engine.kv_cache import SlotCache
from fathom_server.engine.runner.slots import SPARE_SLOTS
from fathom_server.engine.settings import EngineSettings
from fathom_server.errors import SettingsError
from fathom_server.processor import has_vnni


class OnnxRunner:
    """Runs ``model.onnx`` of one version's folder; raises SettingsError where it cannot be loaded.

    ``session_entries`` are further session options of ONNX Runtime by name.
    """

    def __init__(
        self, folder: Path, settings: EngineSettings, session_entries: Mapping[str, str] | None = None
    ) -> None:
        graph, limits = settings.graph, settings.limits
        self._graph = graph
        options = ort.SessionOptions()
        options.intra_op_num_threads = limits.threads or _usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if not has_vnni():
            # products of u8 and s8 could overflow their 16-bit sums; with VNNI this changes nothing but halves speed
            options.add_session_config_entry("session.x64quantprecision", "1")
        for name, value in (session_entries or {}).items():
            options.add_session_config_entry(name, value)
        path = folder / names.GRAPH_FILE
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own types for a missing, broken or unsupported graph
            raise SettingsError(f"{path} cannot be loaded by ONNX Runtime {ort.__version__}: {error}") from error
        # in the portable dialect the cache length is the graph's own; the cpu dialect takes any
        length = graph.max_context if graph.dialect == "portable" else limits.max_context
        self.cache = SlotCache(graph, limits.max_batch + SPARE_SLOTS, length)
        self._logits = np.empty((limits.max_batch, graph.vocabulary), dtype=np.float32)
        self._bindings: dict[tuple[int, int], Any] = {}

    def prefill(
        self, slot: int, past_length: int, token_ids: npt.NDArray[np.int64], logits: int = 1
    ) -> npt.NDArray[np.float32]:
        """See ``SlotRunner.prefill``."""
        past_lengths = np.array([past_length], dtype=np.int32)
        return self._step(slot, past_lengths, token_ids[np.newaxis], logits)

    def decode(self, past_lengths: npt.NDArray[np.int32], token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """See ``SlotRunner.decode``."""
        return self._step(0, past_lengths, token_ids[:, np.newaxis], 1)

    def _step(
        self, first_slot: int, past_lengths: npt.NDArray[np.int32], input_ids: npt.NDArray[np.int64], last: int
    ) -> npt.NDArray[np.float32]:
        """One run over slots ``first_slot`` …, input_ids [batch, sequence]: logits [batch × last, vocabulary]."""
        batch, sequence = input_ids.shape
        positions = np.arange(sequence - last, sequence, dtype=np.int64)
        feeds: dict[str, npt.NDArray[Any]] = {
            names.INPUT_IDS: input_ids,
            names.LOGIT_POSITIONS: np.tile(positions, (batch, 1)),
        }
        if self._graph.dialect == "cpu":
            lengths = past_lengths + np.int32(sequence)
            feeds[names.SEQLENS_K] = lengths - np.int32(1)
            feeds[names.TOTAL_SEQUENCE_LENGTH] = np.array(lengths.max(), dtype=np.int32)
        else:
            begins = past_lengths.astype(np.int64)
            feeds[names.WRITE_INDICES] = begins
            feeds[names.POSITION_IDS] = begins[:, np.newaxis] + np.arange(sequence, dtype=np.int64)
        binding = self._cache_binding(first_slot, batch)
        kept = {name: np.ascontiguousarray(value) for name, value in feeds.items()}  # alive until the run is over
        for name, value in kept.items():
            binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
        if batch * last > len(self._logits):
            self._logits = np.empty((batch * last, self._graph.vocabulary), dtype=np.float32)
        logits = self._logits[: batch * last]
        shape = (batch, last, self._graph.vocabulary)
        binding.bind_output(names.LOGITS, "cpu", 0, np.float32, shape, logits.ctypes.data)
        self._session.run_with_iobinding(binding)
        return logits

    def _cache_binding(self, first_slot: int, batch: int) -> Any:
        """The binding of a run of slots: past and present on the same memory, kept for the next step."""
        binding = self._bindings.get((first_slot, batch))
        if binding is None:
            binding = self._session.io_binding()
            for layer, (key, value) in enumerate(self.cache.layers):
                for part, whole in (("key", key), ("value", value)):
                    slots = whole[first_slot : first_slot + batch]
                    place = ("cpu", 0, slots.dtype.type, slots.shape, slots.ctypes.data)
                    binding.bind_input(names.past_name(layer, part), *place)  # type: ignore[arg-type]
                    binding.bind_output(names.present_name(layer, part), *place)  # type: ignore[arg-type]
            self._bindings[first_slot, batch] = binding
        return binding


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))
