"""A decoder's TensorRT plan: prefill and decode over one stream, the cache aliased in place, decode steps as graphs."""

import logging
import mmap
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
    ShapeRange,
    hash_file,
    plan_command,
    plan_fault,
)
from fathom_server.engine.runner.cuda import ALIGNMENT_BYTES, CudaStream, describe_runtime, import_tensorrt
from fathom_server.engine.runner.slots import SPARE_SLOTS
from fathom_server.engine.settings import EngineSettings
from fathom_server.errors import DeviceError, SettingsError

logger: Final = logging.getLogger("fathom.tensorrt")

_INPUTS: Final = (names.INPUT_IDS, names.LOGIT_POSITIONS, names.POSITION_IDS, names.WRITE_INDICES)
_INPUT_BYTES: Final = 8  # all four are int64
_LOGIT_BYTES: Final = 4
_MAX_GRAPHS: Final = 64
"""Decode batches beyond it are computed without a graph: each graph keeps a context and some memory of its own."""


@dataclass(frozen=True, slots=True)
class _Profile:
    """One optimisation profile of the engine."""

    index: int
    batch_and_sequence: ShapeRange


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
            self._engine = _Engine(folder, self._passport)
            self._engine.check_tensors(self._graph.layers)
            itemsize = self._engine.itemsize(names.past_name(0, "key"))
            slots, length = limits.max_batch + SPARE_SLOTS, self._graph.max_context
            self.cache = DeviceSlotCache(self._cuda, self._graph, slots, length, itemsize)
            self._profiles = self._engine.profiles()
            tokens = max(limits.max_batch, min(limits.prefill_chunk, self._graph.max_context))
            inputs = len(_INPUTS) * (tokens * _INPUT_BYTES + ALIGNMENT_BYTES)
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
        inputs_bytes = self._write_inputs(past_lengths.astype(np.int64), token_ids[:, np.newaxis])
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
        inputs_bytes = self._write_inputs(np.array([past_length], dtype=np.int64), token_ids[np.newaxis])
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
            inputs_bytes = self._write_inputs(zeros, zeros[:, np.newaxis])
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

    def _write_inputs(self, past_lengths: npt.NDArray[np.int64], input_ids: npt.NDArray[np.int64]) -> int:
        """Lay the four inputs of a step side by side in page-locked memory; returns how many bytes they take."""
        batch, sequence = input_ids.shape
        values = {
            names.INPUT_IDS: input_ids,
            names.LOGIT_POSITIONS: np.full((batch, 1), sequence - 1, dtype=np.int64),
            names.POSITION_IDS: past_lengths[:, np.newaxis] + np.arange(sequence, dtype=np.int64),
            names.WRITE_INDICES: past_lengths,
        }
        end = 0
        for name, offset in _input_offsets(batch, sequence).items():
            value = np.ascontiguousarray(values[name])
            end = offset + value.nbytes
            self._host_inputs[offset:end] = value.reshape(-1).view(np.uint8)
        return end

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
        shapes = _input_shapes(batch, sequence)
        for name, offset in _input_offsets(batch, sequence).items():
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

    def _profile(self, batch: int, sequence: int) -> _Profile:
        """The profile whose most likely shape is nearest among those that take this one."""
        fitting = [profile for profile in self._profiles if profile.batch_and_sequence.covers((batch, sequence))]
        if not fitting:
            raise DeviceError(f"the plan has no profile for a batch of {batch} with {sequence} new tokens each")
        return min(fitting, key=lambda profile: abs(profile.batch_and_sequence.optimum[1] - sequence))


class _Engine:
    """The deserialised plan, and what is asked of it once."""

    def __init__(self, folder: Path, passport: PlanPassport) -> None:
        self._trt = trt = import_tensorrt()
        self._folder = folder
        self._logger = _new_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        # a version-compatible plan carries the runtime of the version that built it
        self._runtime.engine_host_code_allowed = passport.options.version_compatible
        path = folder / PLAN_FILE
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._error(f"{path} cannot be loaded by TensorRT {trt.__version__}", passport)
        if passport.options.strip:
            self._refit(passport)
        if passport.options.weight_streaming:
            self._engine.weight_streaming_budget_v2 = self._engine.get_weight_streaming_automatic_budget()

    def check_tensors(self, layers: int) -> None:
        """Raise SettingsError unless the plan's tensors are those of a decoder of so many layers, cache aliased."""
        trt, engine = self._trt, self._engine
        found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        caches = {
            names.past_name(layer, part): names.present_name(layer, part)
            for layer in range(layers)
            for part in ("key", "value")
        }
        wanted = {*_INPUTS, names.LOGITS, *caches, *caches.values()}
        if found != wanted:
            raise self._error(f"the plan's tensors differ from the graph's: {', '.join(sorted(found ^ wanted))}")
        for name in _INPUTS:
            if engine.get_tensor_dtype(name) != trt.DataType.INT64:
                raise self._error(f"{name} is {engine.get_tensor_dtype(name)} in the plan, not INT64")
        if engine.get_tensor_dtype(names.LOGITS) != trt.DataType.FLOAT:
            raise self._error(f"{names.LOGITS} is {engine.get_tensor_dtype(names.LOGITS)} in the plan, not FLOAT")
        for name in sorted(found):
            if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise self._error(f"{name} is asked for in host memory by the plan")
        for past, present in caches.items():
            if engine.get_aliased_input_tensor(present) != past:
                raise self._error(f"{present} does not share the memory of {past} in the plan")

    def itemsize(self, tensor: str) -> int:
        """Bytes of one number of a cache tensor."""
        types = self._trt.DataType
        sizes = {types.FLOAT: 4, types.HALF: 2, types.BF16: 2}
        dtype = self._engine.get_tensor_dtype(tensor)
        if dtype not in sizes:
            raise self._error(f"the cache is {dtype} in the plan; it must be FLOAT, HALF or BF16")
        return sizes[dtype]

    def profiles(self) -> tuple[_Profile, ...]:
        """All optimisation profiles, by batch and new tokens a row."""
        return tuple(
            _Profile(index, ShapeRange(*(tuple(shape) for shape in self._shapes(index))))
            for index in range(self._engine.num_optimization_profiles)
        )

    def scratch_bytes(self, profiles: int) -> int:
        """Device memory that a context needs, whichever its profile."""
        return max(int(self._engine.get_device_memory_size_for_profile_v2(index)) for index in range(profiles))

    def new_context(self, profile: int, stream: int) -> Any:
        """An execution context of a profile, without scratch memory."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None or not context.set_optimization_profile_async(profile, stream):
            raise DeviceError(f"TensorRT could not make a context: {'; '.join(self._logger.errors)}")
        return context

    def _shapes(self, profile: int) -> Any:
        return self._engine.get_tensor_profile_shape(names.INPUT_IDS, profile)

    def _refit(self, passport: PlanPassport) -> None:
        """Give a stripped plan its weights, from the ONNX file beside it."""
        trt, graph = self._trt, self._folder / names.GRAPH_FILE
        refitter = trt.Refitter(self._engine, self._logger)
        parser = trt.OnnxParserRefitter(refitter, self._logger)
        if not (parser.refit_from_file(str(graph)) and refitter.refit_cuda_engine()):
            raise self._error(f"the weights of {graph} do not fit into the stripped plan", passport)

    def _error(self, reason: str, passport: PlanPassport | None = None) -> SettingsError:
        details = "".join(f": {line}" for line in self._logger.errors[-1:])
        command = plan_command(self._folder, passport.options if passport is not None else None)
        return SettingsError(f"{reason}{details}; build the plan again here: {command}")


def _checked_passport(folder: Path, settings: EngineSettings) -> PlanPassport:
    """The plan's passport, if the plan may run here under these limits; raises SettingsError in one sentence."""
    passport = PlanPassport.load(folder / PLAN_PASSPORT_FILE)
    graph, limits = folder / names.GRAPH_FILE, settings.limits
    chunk = min(limits.prefill_chunk, settings.graph.max_context)
    use = PlanUse(
        runtime=describe_runtime(),
        onnx_sha256=hash_file(graph) if graph.is_file() else None,
        plan_bytes=(folder / PLAN_FILE).stat().st_size,
        needed_shapes=tuple(_input_shapes(*shape) for shape in ((1, chunk), (1, 1), (limits.max_batch, 1))),
    )
    fault = plan_fault(passport, use, plan_command(folder, passport.options))
    if fault is not None:
        raise SettingsError(fault)
    return passport


def _input_shapes(batch: int, sequence: int) -> dict[str, tuple[int, ...]]:
    return {
        names.INPUT_IDS: (batch, sequence),
        names.LOGIT_POSITIONS: (batch, 1),
        names.POSITION_IDS: (batch, sequence),
        names.WRITE_INDICES: (batch,),
    }


def _input_offsets(batch: int, sequence: int) -> dict[str, int]:
    """Where each input of a step begins in the one piece that is copied to the GPU, in bytes."""
    offsets, end = {}, 0
    for name, shape in _input_shapes(batch, sequence).items():
        offsets[name] = end
        size = int(np.prod(shape)) * _INPUT_BYTES
        end += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return offsets


def _bind(context: Any, name: str, address: int, shape: tuple[int, ...] | None = None) -> None:
    if shape is not None and not context.set_input_shape(name, shape):
        raise DeviceError(f"TensorRT refuses the shape {shape} of {name}; build the plan again")
    if not context.set_tensor_address(name, address):
        raise DeviceError(f"TensorRT refuses the address of {name}; build the plan again")


def _new_logger(trt: Any) -> Any:
    """TensorRT's lines into Python's log; errors are also kept, for the message that ends the load."""

    class PlanLogger(trt.ILogger):  # type: ignore[misc]
        """TensorRT's ILogger."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(msg)
                logger.error("%s", msg)
            elif severity == trt.ILogger.Severity.WARNING:
                logger.warning("%s", msg)
            else:
                logger.debug("%s", msg)

    return PlanLogger()
