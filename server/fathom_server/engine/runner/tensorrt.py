"""A decoder's TensorRT plan: prefill and decode over one stream, the cache aliased in place, decode steps as graphs."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fathom_server.engine import settings as names
from fathom_server.engine.device_kv_cache import DeviceSlotCache
from fathom_server.engine.plan_passport import (
    PLAN_FILE,
    PLAN_PASSPORT_FILE,
    PlanPassport,
    PlanUse,
    hash_file,
    plan_command,
    plan_fault,
)
from fathom_server.engine.runner.cuda import CudaStream, describe_runtime
from fathom_server.engine.runner.plan_engine import PlanEngine, PlanProfile
from fathom_server.engine.runner.plan_inputs import input_offsets, input_shapes, most_input_bytes, write_inputs
from fathom_server.engine.runner.slots import SPARE_SLOTS
from fathom_server.engine.settings import EngineSettings
from fathom_server.errors import DeviceError, SettingsError

logger: Final = logging.getLogger("fathom.tensorrt")

_LOGIT_BYTES: Final = 4
_MAX_GRAPHS: Final = 64
"""Decode batches beyond it are computed without a graph: each graph keeps a context and some memory of its own."""


@dataclass(frozen=True, slots=True)
class _DecodeGraph:
    """A captured decode step, and the execution context that must live as long as it."""

    graph: Any
    context: Any


class TensorRTRunner:
    """Runs ``model.plan`` of one version's folder on the first visible GPU.

    Inputs are copied to the GPU from page-locked memory in one piece; logits come back the same way. A decode step of
    each batch size is a CUDA graph, captured when the plan is loaded. Raises SettingsError where the plan does not
    belong here, DeviceError where the GPU refuses.
    """

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        self._graph, limits = settings.graph, settings.limits
        self._max_batch = limits.max_batch
        self._passport = _checked_passport(folder, settings)
        self._cuda = CudaStream()
        try:
            self._engine = PlanEngine(folder, self._passport)
            self._engine.check_tensors(self._graph.layers)
            itemsize = self._engine.itemsize(names.past_name(0, "key"))
            slots, length = limits.max_batch + SPARE_SLOTS, self._graph.max_context
            self.cache = DeviceSlotCache(self._cuda, self._graph, slots, length, itemsize)
            self._profiles = self._engine.profiles()
            tokens = max(limits.max_batch, min(limits.prefill_chunk, self._graph.max_context))
            inputs = most_input_bytes(tokens)
            self._device_inputs = self._cuda.allocate(inputs)
            self._host_inputs_address, self._host_inputs = self._cuda.allocate_host(inputs)
            logits = limits.max_batch * self._graph.vocabulary * _LOGIT_BYTES
            self._device_logits = self._cuda.allocate(logits)
            self._host_logits_address, host_logits = self._cuda.allocate_host(logits)
            self._host_logits = host_logits[:logits].view(np.float32).reshape(limits.max_batch, -1)
            # all contexts compute one after another on one stream, so they share their scratch memory
            self._scratch_bytes = self._engine.scratch_bytes(len(self._profiles))
            self._scratch = self._cuda.allocate(self._scratch_bytes)
            self._contexts: dict[int, Any] = {}
            self._decode_graphs: dict[int, _DecodeGraph] = {}
            self._capture_decode_steps()
        except BaseException:
            self._cuda.close()
            raise

    def prefill(
        self, slot: int, past_length: int, token_ids: npt.NDArray[np.int64], logits: int = 1
    ) -> npt.NDArray[np.float32]:
        """See ``SlotRunner.prefill``. A plan computes one position's logits a call, so each further one is a call."""
        if logits <= 1:
            return self._prefill(slot, past_length, token_ids)[:logits]
        first = len(token_ids) - logits + 1
        found = np.empty((logits, self._graph.vocabulary), dtype=np.float32)
        found[0] = self._prefill(slot, past_length, token_ids[:first])[0]
        for place in range(1, logits):
            done = first + place - 1
            found[place] = self._prefill(slot, past_length + done, token_ids[done : done + 1])[0]
        return found

    def decode(self, past_lengths: npt.NDArray[np.int32], token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """See ``SlotRunner.decode``."""
        self._cuda.use_device()
        batch = len(token_ids)
        inputs_bytes = write_inputs(self._host_inputs, past_lengths.astype(np.int64), token_ids[:, np.newaxis])
        if batch in self._decode_graphs:
            self._cuda.launch(self._decode_graphs[batch].graph)
        else:
            self._enqueue(self._bound_context(self._shared_context(batch, 1), 0, batch, 1), batch, inputs_bytes)
        self._cuda.synchronize()
        return self._host_logits[:batch]

    def close(self) -> None:
        """Give the GPU's memory back; the runner cannot be used afterwards."""
        self._decode_graphs.clear()
        self._contexts.clear()
        self._cuda.close()

    def _prefill(self, slot: int, past_length: int, token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The last position's logits, float32 [1, vocabulary]."""
        self._cuda.use_device()
        inputs_bytes = write_inputs(self._host_inputs, np.array([past_length], dtype=np.int64), token_ids[np.newaxis])
        sequence = len(token_ids)
        context = self._bound_context(self._shared_context(1, sequence), slot, 1, sequence)
        self._enqueue(context, 1, inputs_bytes)
        self._cuda.synchronize()
        return self._host_logits[:1]

    def _capture_decode_steps(self) -> None:
        """A graph for every batch size, the largest first; a step that cannot be captured stays a plain one.

        TensorRT asks for one context a graph, and for one run of it before the capture.
        """
        for batch in range(min(self._max_batch, _MAX_GRAPHS), 0, -1):
            context = self._bound_context(self._new_context(batch, 1), 0, batch, 1)
            zeros = np.zeros(batch, dtype=np.int64)
            inputs_bytes = write_inputs(self._host_inputs, zeros, zeros[:, np.newaxis])
            self._enqueue(context, batch, inputs_bytes)
            self._cuda.synchronize()
            self._cuda.begin_capture()
            try:
                self._enqueue(context, batch, inputs_bytes)
                graph = self._cuda.end_capture()
            except DeviceError as error:
                self._cuda.abandon_capture()
                logger.warning("decode steps are computed without CUDA graphs: %s", error)
                return
            self._decode_graphs[batch] = _DecodeGraph(graph, context)

    def _enqueue(self, context: Any, batch: int, inputs_bytes: int) -> None:
        """Inputs in, one execution, logits out: all on the stream, nothing waited for."""
        self._cuda.copy_to_device(self._device_inputs, self._host_inputs_address, inputs_bytes)
        if not context.execute_async_v3(self._cuda.handle):
            raise DeviceError(f"TensorRT could not execute a step of batch {batch}; its own lines in the log say why")
        logits_bytes = batch * self._graph.vocabulary * _LOGIT_BYTES
        self._cuda.copy_to_host(self._host_logits_address, self._device_logits, logits_bytes)

    def _shared_context(self, batch: int, sequence: int) -> Any:
        """The context of the profile that takes this shape, kept for all such steps that are no graphs."""
        index = self._profile(batch, sequence).index
        if index not in self._contexts:
            self._contexts[index] = self._new_context(batch, sequence)
        return self._contexts[index]

    def _new_context(self, batch: int, sequence: int) -> Any:
        context = self._engine.new_context(self._profile(batch, sequence).index, self._cuda.handle)
        context.set_device_memory(self._scratch, self._scratch_bytes)
        return context

    def _bound_context(self, context: Any, first_slot: int, batch: int, sequence: int) -> Any:
        """Give a context the shapes and addresses of a step over slots ``first_slot`` …; past and present are one."""
        shapes = input_shapes(batch, sequence)
        for name, offset in input_offsets(batch, sequence).items():
            _bind(context, name, self._device_inputs + offset, shapes[name])
        cache = self.cache
        form = (batch, self._graph.kv_heads, cache.max_context, self._graph.head_dim)
        for layer in range(self._graph.layers):
            for part in ("key", "value"):
                address = cache.address(layer, part, first_slot)
                _bind(context, names.past_name(layer, part), address, form)
                _bind(context, names.present_name(layer, part), address)
        _bind(context, names.LOGITS, self._device_logits)
        missing = context.infer_shapes()
        if missing:
            raise DeviceError(f"TensorRT misses the shapes or values of {', '.join(missing)}; build the plan again")
        return context

    def _profile(self, batch: int, sequence: int) -> PlanProfile:
        """The profile whose most likely shape is nearest among those that take this one."""
        fitting = [profile for profile in self._profiles if profile.batch_and_sequence.covers((batch, sequence))]
        if not fitting:
            raise DeviceError(f"the plan has no profile for a batch of {batch} with {sequence} new tokens each")
        return min(fitting, key=lambda profile: abs(profile.batch_and_sequence.optimum[1] - sequence))


def _checked_passport(folder: Path, settings: EngineSettings) -> PlanPassport:
    """The plan's passport, if the plan may run here under these limits; raises SettingsError in one sentence."""
    passport = PlanPassport.load(folder / PLAN_PASSPORT_FILE)
    graph, limits = folder / names.GRAPH_FILE, settings.limits
    chunk = min(limits.prefill_chunk, settings.graph.max_context)
    use = PlanUse(
        runtime=describe_runtime(),
        onnx_sha256=hash_file(graph) if graph.is_file() else None,
        plan_bytes=(folder / PLAN_FILE).stat().st_size,
        needed_shapes=tuple(input_shapes(*shape) for shape in ((1, chunk), (1, 1), (limits.max_batch, 1))),
    )
    fault = plan_fault(passport, use, plan_command(folder, passport.options))
    if fault is not None:
        raise SettingsError(fault)
    return passport


def _bind(context: Any, name: str, address: int, shape: tuple[int, ...] | None = None) -> None:
    if shape is not None and not context.set_input_shape(name, shape):
        raise DeviceError(f"TensorRT refuses the shape {shape} of {name}; build the plan again")
    if not context.set_tensor_address(name, address):
        raise DeviceError(f"TensorRT refuses the address of {name}; build the plan again")
