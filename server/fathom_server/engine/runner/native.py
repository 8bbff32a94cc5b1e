"""A decoder graph in Fathom's own operators on ONNX Runtime's CPU provider: flat steps over a paged cache."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from fathom_server.engine import settings as names
from fathom_server.engine.kv_cache import PagedCache
from fathom_server.engine.runner.base import CacheGeometry, StepRow
from fathom_server.engine.settings import EngineSettings
from fathom_server.errors import SettingsError
from fathom_server.native.library import register

_KEPT_BINDINGS: Final = 64
"""Shapes of steps whose binding is kept; a decode step's shape comes again and again."""
_NARROWEST_TABLE: Final = 16


class NativeRunner:
    """Runs ``model.native.onnx`` of one version's folder; raises SettingsError where it cannot be loaded.

    What a step reads and writes lies in memory that is kept, so a step binds nothing that one of its shape has bound
    before. ``session_entries`` are further session options of ONNX Runtime by name; ``cache`` is that of another runner
    of the same model and limits, to be shared.
    """

    def __init__(
        self,
        folder: Path,
        settings: EngineSettings,
        session_entries: Mapping[str, str] | None = None,
        cache: PagedCache | None = None,
    ) -> None:
        graph, limits = settings.graph, settings.limits
        path = folder / names.NATIVE_GRAPH_FILE
        self._vocabulary = graph.vocabulary
        self._session = _open_session(path, limits.threads, session_entries or {})
        block_tokens = _block_tokens(self._session, path, limits.kv_cache_dtype)
        blocks_each = -(-limits.max_context // block_tokens)
        blocks = -(-limits.kv_cache_tokens // block_tokens) or limits.max_batch * blocks_each
        self.cache = cache or PagedCache(graph, blocks, block_tokens, limits.kv_cache_dtype)
        self._geometry = CacheGeometry(blocks, block_tokens, shareable=True)
        self._bindings: dict[tuple[int, int, int, int], Any] = {}
        tokens = limits.prefill_chunk + limits.max_batch
        self._buffers = _Buffers(
            tokens, limits.max_batch, limits.max_batch * _NARROWEST_TABLE, limits.max_batch, graph.vocabulary
        )

    @property
    def geometry(self) -> CacheGeometry:
        """See ``Runner.geometry``."""
        return self._geometry

    def step(self, rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
        """See ``Runner.step``."""
        token_ids: list[int] = []
        past_lengths: list[int] = []
        logit_rows: list[int] = []
        row_starts = [0]
        widest = _NARROWEST_TABLE
        for row in rows:
            token_ids += row.token_ids
            past_lengths.append(row.past)
            end = len(token_ids)
            row_starts.append(end)
            if row.logits:
                logit_rows += range(end - row.logits, end)
            if len(row.blocks) > widest:
                widest = len(row.blocks)
        width = 1 << (widest - 1).bit_length()  # few widths, so that bindings are found again
        shape = (len(token_ids), len(rows), width, len(logit_rows))
        binding = self._bindings.get(shape) or self._bind(shape)
        buffers = self._buffers
        buffers.token_ids[: shape[0]] = token_ids
        buffers.row_starts[: shape[1] + 1] = row_starts
        buffers.past_lengths[: shape[1]] = past_lengths
        buffers.logit_rows[: shape[3]] = logit_rows
        tables = buffers.block_tables[: shape[1] * width].reshape(shape[1], width)
        for place, row in enumerate(rows):
            tables[place, : len(row.blocks)] = row.blocks
        self._session.run_with_iobinding(binding)
        return buffers.logits[: shape[3]]

    def _bind(self, shape: tuple[int, int, int, int]) -> Any:
        """The binding of steps with so many tokens, rows, blocks a row and logits."""
        tokens, rows, width, logits = shape
        if not self._buffers.hold(tokens, rows, rows * width, logits):
            self._bindings.clear()  # they point to the old buffers
            self._buffers = self._buffers.grown(tokens, rows, rows * width, logits)
        elif len(self._bindings) >= _KEPT_BINDINGS:
            del self._bindings[next(iter(self._bindings))]
        buffers, binding = self._buffers, self._session.io_binding()
        for name, array, part in (
            (names.INPUT_IDS, buffers.token_ids, (tokens,)),
            (names.LOGIT_ROWS, buffers.logit_rows, (logits,)),
            (names.ROW_STARTS, buffers.row_starts, (rows + 1,)),
            (names.PAST_LENGTHS, buffers.past_lengths, (rows,)),
            (names.BLOCK_TABLES, buffers.block_tables, (rows, width)),
            (names.KV_CACHE, self.cache.memory, self.cache.memory.shape),
        ):
            binding.bind_input(name, "cpu", 0, array.dtype.type, part, array.ctypes.data)
        address = buffers.logits.ctypes.data
        binding.bind_output(names.LOGITS, "cpu", 0, np.float32, (logits, self._vocabulary), address)
        self._bindings[shape] = binding
        return binding


class _Buffers:
    """Inputs and logits of a step, as large as the largest so far."""

    def __init__(self, tokens: int, rows: int, table_cells: int, logits: int, vocabulary: int) -> None:
        self._sizes = (tokens, rows, table_cells, logits)
        self.token_ids = np.zeros(tokens, dtype=np.int64)
        self.row_starts = np.zeros(rows + 1, dtype=np.int32)
        self.past_lengths = np.zeros(rows, dtype=np.int32)
        self.block_tables = np.zeros(table_cells, dtype=np.int32)
        self.logit_rows = np.zeros(logits, dtype=np.int64)
        self.logits = np.zeros((logits, vocabulary), dtype=np.float32)

    def hold(self, *sizes: int) -> bool:
        """Whether a step of these sizes fits."""
        return all(size <= own for size, own in zip(sizes, self._sizes, strict=True))

    def grown(self, *sizes: int) -> "_Buffers":
        """New ones in which such a step fits, and all that fitted before."""
        tokens, rows, table_cells, logits = map(max, sizes, self._sizes)
        return _Buffers(tokens, rows, table_cells, logits, self.logits.shape[1])


def _open_session(path: Path, threads: int, entries: Mapping[str, str]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # threads spin from one operator to the next, but not between steps, where others need the cores
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    if not register(options):
        raise SettingsError(f"{path} needs Fathom's operators, which are not built here or turned off")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own types for a missing, broken or unsupported graph
        raise SettingsError(f"{path} cannot be loaded by ONNX Runtime {ort.__version__}: {error}") from error


def _block_tokens(session: ort.InferenceSession, path: Path, kv_dtype: str) -> int:
    """Tokens of a block, which the graph's metadata says; its cache must be of the type that the limits say."""
    metadata = session.get_modelmeta().custom_metadata_map
    found = metadata.get(names.KV_DTYPE)
    if found != kv_dtype:
        raise SettingsError(
            f"limits.kv_cache_dtype is {kv_dtype}, but {path} was written for a cache of {found}; export the model "
            "again with the limit that you want"
        )
    return int(metadata[names.BLOCK_TOKENS])
