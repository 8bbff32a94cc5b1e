"""A decoder graph of the cuda dialect on ONNX Runtime's CUDA provider: flat steps, cache and logits on the device."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from fathom_server.engine import settings as names
from fathom_server.engine.runner.base import CacheGeometry, StepRow
from fathom_server.engine.runner.cuda_device import PROVIDER, require_cuda
from fathom_server.engine.runner.cuda_inputs import StepInputs
from fathom_server.engine.settings import EngineSettings
from fathom_server.errors import DeviceError, SettingsError

DEVICE: Final = "cuda"

_KEPT_BINDINGS: Final = 64
_LONG_TOKENS: Final = 512
"""Beyond it, attention of a decode step splits a sequence over several blocks of threads: a CUDA graph of its own."""
_NO_GRAPH: Final = "-1"
_GRAPH_ID: Final = "gpu_graph_id"
_PROVIDER_OPTIONS: Final = {
    "arena_extend_strategy": "kSameAsRequested",
    # sums of squares of float16 in float32
    "enable_skip_layer_norm_strict_mode": "1",
}


class CudaOnnxRunner:
    """Runs ``model.onnx`` of one version's folder on the first visible GPU.

    A step of one token a sequence is a CUDA graph, for each of a few batch sizes up to which steps are padded;
    ONNX Runtime captures it in the thread that first asks for it. Other steps are launched node by node. A row's
    logits depend on its own tokens, but are not the same bits in any company: kernels are chosen by the step's size.
    Raises SettingsError where the graph cannot be run here, DeviceError where the GPU has no room.
    """

    def __init__(
        self, folder: Path, settings: EngineSettings, session_entries: Mapping[str, str] | None = None
    ) -> None:
        graph, limits = settings.graph, settings.limits
        require_cuda(graph.precision)
        entries = session_entries or {}
        self._session = open_session(folder / names.GRAPH_FILE, {"enable_cuda_graph": "1"}, entries)
        self._sampling = open_session(folder / names.SAMPLING_GRAPH_FILE, {}, entries)
        block_tokens = int(self._session.get_modelmeta().custom_metadata_map[names.BLOCK_TOKENS])
        self._blocks_each = -(-limits.max_context // block_tokens)
        blocks = -(-limits.kv_cache_tokens // block_tokens) or limits.max_batch * self._blocks_each
        self._geometry = CacheGeometry(blocks, block_tokens, shareable=True)
        self._context = self._blocks_each * block_tokens
        self._vocabulary = graph.vocabulary
        self._batches = padded_batches(limits.max_batch)
        self._spare_block = blocks  # what padding rows write is read by nobody
        shape = (blocks + 1, block_tokens, graph.kv_heads, graph.head_dim)
        try:
            # zeros: what no token has written takes part in attention with weight 0, and 0 × NaN is NaN
            self._cache = [
                [ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float16), DEVICE) for _ in ("key", "value")]
                for _ in range(graph.layers)
            ]
            batch = self._batches[-1]
            self._decode_inputs = StepInputs(DEVICE, batch, batch, batch, self._blocks_each)
            self._inputs = StepInputs(DEVICE, limits.prefill_chunk + batch, batch, batch, self._blocks_each)
        except Exception as error:  # onnxruntime's own, where the device refuses memory
            need = 4 * graph.layers * int(np.prod(shape)) >> 20
            raise DeviceError(
                f"the GPU has no room for a cache of {blocks * block_tokens} tokens ({need} MiB): {error}; lower "
                "limits.kv_cache_tokens, or max_batch or max_context"
            ) from error
        self._bindings: dict[tuple[int, int, int], Any] = {}
        self._decode_bindings: dict[tuple[int, bool], tuple[Any, Any]] = {}
        self._sampling_bindings: dict[int, tuple[Any, Any]] = {}
        self._logits: dict[int, Any] = {}
        self._no_graph = _run_options(_NO_GRAPH)
        self._reduced = np.full((0, self._vocabulary), -np.inf, dtype=np.float32)
        self._filled: npt.NDArray[np.int64] = np.zeros((0, names.TOP_TOKENS), dtype=np.int64)

    @property
    def geometry(self) -> CacheGeometry:
        """See ``Runner.geometry``."""
        return self._geometry

    @property
    def reduced_tokens(self) -> int:
        """See ``ReducingRunner.reduced_tokens``."""
        return min(names.TOP_TOKENS, self._vocabulary)

    def step(self, rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
        """See ``Runner.step``."""
        padded, wanted = self._run(rows)
        logits: npt.NDArray[np.float32] = self._logits[padded].numpy()
        return logits[:wanted]

    def step_reduced(self, rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
        """See ``ReducingRunner.step_reduced``."""
        padded, wanted = self._run(rows)
        binding, top = self._sampling_binding(padded)
        self._sampling.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return self._expanded(top.numpy()[:wanted])

    def _run(self, rows: Sequence[StepRow]) -> tuple[int, int]:
        """Compute a step; gives how many rows of logits there are with padding, and how many are wanted."""
        if all(len(row.token_ids) == row.logits == 1 for row in rows) and len(rows) <= self._batches[-1]:
            return self._decode(rows), len(rows)
        lengths = [len(row.token_ids) for row in rows]
        wanted = sum(row.logits for row in rows)
        padded = self._padded(max(1, wanted))
        if not self._inputs.hold(sum(lengths), len(rows), padded):
            self._bindings.clear()  # they point to the old memory
            self._inputs = self._inputs.grown(sum(lengths), len(rows), padded)
        inputs = self._inputs
        longest = max(row.past + length for row, length in zip(rows, lengths, strict=True))
        inputs.write(rows, (max(lengths), longest, longest))
        shape = (sum(lengths), len(rows), padded)
        binding = self._bindings.get(shape)
        if binding is None:
            if len(self._bindings) >= _KEPT_BINDINGS:
                del self._bindings[next(iter(self._bindings))]
            binding = self._bindings[shape] = self._bind(inputs, *shape)
        self._launch(binding, self._no_graph)
        return padded, wanted

    def _decode(self, rows: Sequence[StepRow]) -> int:
        """One token of each row, by a CUDA graph; gives the batch with padding."""
        padded = self._padded(len(rows))
        filler = StepRow((self._spare_block,), 0, (0,), 1)
        is_long = max(row.past for row in rows) >= _LONG_TOKENS
        # what a graph is captured with must hold for all its runs
        bounds = (1, self._context, _LONG_TOKENS + 1) if is_long else (1, min(_LONG_TOKENS, self._context), 0)
        self._decode_inputs.write([*rows, *[filler] * (padded - len(rows))], bounds)
        key = padded, is_long
        if key not in self._decode_bindings:
            binding = self._bind(self._decode_inputs, padded, padded, padded)
            self._decode_bindings[key] = binding, _run_options(str(1 + len(self._decode_bindings)))
        self._launch(*self._decode_bindings[key])
        return padded

    def _launch(self, binding: Any, options: Any) -> None:
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()

    def _padded(self, count: int) -> int:
        """The next size of which there are buffers."""
        return next((size for size in self._batches if size >= count), 1 << (count - 1).bit_length())

    def _bind(self, inputs: StepInputs, tokens: int, rows: int, logits: int) -> Any:
        binding = self._session.io_binding()
        inputs.bind(binding, tokens, rows, logits)
        for layer, parts in enumerate(self._cache):
            for part, memory in zip(("key", "value"), parts, strict=True):
                binding.bind_ortvalue_input(names.past_name(layer, part), memory)  # type: ignore[arg-type]
                binding.bind_ortvalue_output(names.present_name(layer, part), memory)  # type: ignore[arg-type]
        binding.bind_ortvalue_output(names.LOGITS, self._logits_of(logits))
        return binding

    def _logits_of(self, rows: int) -> Any:
        if rows not in self._logits:
            shape = (rows, self._vocabulary)
            self._logits[rows] = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, DEVICE)
        return self._logits[rows]

    def _sampling_binding(self, rows: int) -> tuple[Any, Any]:
        if rows not in self._sampling_bindings:
            shape = (rows, 2 * self.reduced_tokens + 1)
            top = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, DEVICE)
            binding = self._sampling.io_binding()
            binding.bind_ortvalue_input(names.LOGITS, self._logits_of(rows))
            binding.bind_ortvalue_output(names.TOP_LOGITS, top)
            self._sampling_bindings[rows] = binding, top
        return self._sampling_bindings[rows]

    def _expanded(self, top: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Whole rows of what the sampling graph gave: minus infinity where nothing is known."""
        count, kept = len(top), self.reduced_tokens
        if count > len(self._reduced):
            self._reduced = np.full((count, self._vocabulary), -np.inf, dtype=np.float32)
            self._filled = np.zeros((count, kept), dtype=np.int64)
        rows = self._reduced[:count]
        np.put_along_axis(rows, self._filled[:count], np.float32(-np.inf), axis=1)
        broken = np.isnan(top[:, -1])
        ids = np.where(broken[:, np.newaxis], 0, top[:, kept:-1]).astype(np.int64)
        np.put_along_axis(rows, ids, top[:, :kept], axis=1)
        rows[broken, 0] = np.nan
        self._filled[:count] = ids
        return rows


def padded_batches(most: int) -> list[int]:
    """Batch sizes with a CUDA graph each: 1, 2, 4, then multiples of 8, up to the first that holds ``most``."""
    return [size for size in (1, 2, 4) if size < most] + [*range(8, most, 8), most]


def open_session(path: Path, provider_options: Mapping[str, str], entries: Mapping[str, str]) -> ort.InferenceSession:
    """A session on the first visible GPU alone.

    Raises SettingsError where ONNX Runtime refuses the graph, or cannot start CUDA and would compute on the CPU.
    """
    with contextlib.redirect_stdout(sys.stderr):  # where it says what it does not find
        ort.preload_dlls()  # CUDA's libraries from wheels, which no loader would look for
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    try:
        provider = (PROVIDER, {**_PROVIDER_OPTIONS, **provider_options})
        session = ort.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime raises its own types for a missing, broken or unsupported graph
        raise SettingsError(
            f"{path} cannot be loaded by ONNX Runtime {ort.__version__} on CUDA: {error}; see nvidia-smi, and "
            "that CUDA's libraries of the version that onnxruntime-gpu was built for are installed"
        ) from error
    if session.get_providers()[0] != PROVIDER:
        raise SettingsError(
            f"ONNX Runtime {ort.__version__} cannot start its {PROVIDER}; install CUDA's and cuDNN's libraries of the "
            "versions that it was built for: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    return session


def _run_options(graph_id: str) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry(_GRAPH_ID, graph_id)
    return options
