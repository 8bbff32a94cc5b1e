"""A decoder's deserialised TensorRT plan, and what is asked of it once."""

import logging
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fathom_server.engine import settings as names
from fathom_server.engine.plan_passport import PLAN_FILE, PlanPassport, ShapeRange, plan_command
from fathom_server.engine.runner.cuda import import_tensorrt
from fathom_server.engine.runner.plan_inputs import PLAN_INPUTS
from fathom_server.errors import DeviceError, SettingsError

logger: Final = logging.getLogger("fathom.tensorrt")


@dataclass(frozen=True, slots=True)
class PlanProfile:
    """One optimisation profile of the engine."""

    index: int
    batch_and_sequence: ShapeRange


class PlanEngine:
    """``model.plan`` of one version's folder, loaded. Raises SettingsError where TensorRT cannot load it here."""

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
        wanted = {*PLAN_INPUTS, names.LOGITS, *caches, *caches.values()}
        if found != wanted:
            raise self._error(f"the plan's tensors differ from the graph's: {', '.join(sorted(found ^ wanted))}")
        for name in PLAN_INPUTS:
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

    def profiles(self) -> tuple[PlanProfile, ...]:
        """All optimisation profiles, by batch and new tokens a row."""
        return tuple(
            PlanProfile(index, ShapeRange(*(tuple(shape) for shape in self._shapes(index))))
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
