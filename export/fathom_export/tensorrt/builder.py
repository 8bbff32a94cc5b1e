"""TensorRT's builder: from an ONNX file to a plan. Everything is found by name, so 10.15+ and 11 both serve."""

import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fathom_export.errors import PlanError
from fathom_export.tensorrt.messages import BuildMessages
from fathom_export.tensorrt.operators import check_operators, new_network, parser_errors
from fathom_server.engine.plan_passport import PlanOptions, PlanProfile

_FLAGS: Final = {
    "version_compatible": "VERSION_COMPATIBLE",
    "refit": "REFIT",
    "strip": "STRIP_PLAN",
    "weight_streaming": "WEIGHT_STREAMING",
    "sparsity": "SPARSE_WEIGHTS",
}
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class PlanTask:
    """What is to be built: a graph, the shapes that it is for, how, and where timings are kept between builds."""

    name: str
    graph: Path
    profiles: tuple[PlanProfile, ...]
    options: PlanOptions
    timing_cache: Path
    is_decoder: bool


def build(trt: Any, task: PlanTask, messages: BuildMessages, destination: Path) -> int:
    """Build the plan into the file ``destination``; returns its size in bytes.

    TensorRT works on a thread of its own while this one takes signals: at Ctrl-C it is asked to stop, and the
    interruption goes on once it has. Raises PlanError with everything that the parser and the builder said.
    """
    outcome: list[int | BaseException] = []

    def work() -> None:
        try:
            outcome.append(_build(trt, task, messages, destination))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, name="fathom-tensorrt-build", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_S)
    except BaseException:
        messages.stop()
        thread.join()
        raise
    result = outcome[0]
    if isinstance(result, BaseException):
        raise result
    return result


def _build(trt: Any, task: PlanTask, messages: BuildMessages, destination: Path) -> int:
    if task.is_decoder and not hasattr(trt.INetworkDefinition, "add_kv_cache_update"):
        raise PlanError(
            f"TensorRT {trt.__version__} has no layer that updates a KV cache in place; use TensorRT 10.15 or later"
        )
    builder = trt.Builder(messages.logger)
    builder.error_recorder = messages.recorder
    check_operators(trt, builder, task.graph, messages)

    network = new_network(trt, builder)
    network.name = task.name
    parser = trt.OnnxParser(network, messages.logger)
    if not parser.parse_from_file(str(task.graph)):
        lines = "".join(f"\n  {line}" for line in parser_errors(parser))
        raise PlanError(f"TensorRT {trt.__version__} cannot parse {task.graph}:{lines or messages.text()}")
    config = builder.create_builder_config()
    _configure(trt, config, task.options, messages)
    _add_profiles(builder, network, config, task)
    _load_timing_cache(config, task.timing_cache)

    plan = builder.build_serialized_network(network, config)
    _save_timing_cache(config, task.timing_cache)
    if plan is None:
        raise PlanError(f"TensorRT {trt.__version__} could not build {task.name}:{messages.text()}")
    with destination.open("wb") as file:
        return file.write(memoryview(plan))


def _configure(trt: Any, config: Any, options: PlanOptions, messages: BuildMessages) -> None:
    config.progress_monitor = messages.monitor
    for name, flag in _FLAGS.items():
        if getattr(options, name):
            config.set_flag(getattr(trt.BuilderFlag, flag))
    level = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper())
    config.hardware_compatibility_level = level
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)


def _add_profiles(builder: Any, network: Any, config: Any, task: PlanTask) -> None:
    inputs = {network.get_input(index).name for index in range(network.num_inputs)}
    for profile in task.profiles:
        if inputs != set(profile.shapes):
            odd = ", ".join(sorted(inputs ^ set(profile.shapes)))
            raise PlanError(f"{task.graph} has other inputs than its settings say: {odd}; export the model again")
        ranges = builder.create_optimization_profile()
        for name, shape in profile.shapes.items():
            try:
                ranges.set_shape(name, *shape.shapes())
            except ValueError as error:
                raise PlanError(f"TensorRT refuses the shapes {shape.shapes()} of {name}: {error}") from error
        if config.add_optimization_profile(ranges) < 0:
            raise PlanError(f"TensorRT refuses the profile {profile.name} of {task.graph}; export the model again")


def _load_timing_cache(config: Any, path: Path) -> None:
    """Timings of earlier builds; those of another TensorRT or GPU are left aside."""
    stored = path.read_bytes() if path.is_file() else b""
    for content in (stored, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _save_timing_cache(config: Any, path: Path) -> None:
    """Keep the timings, whatever became of the build; the file is replaced whole."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(memoryview(cache.serialize()))
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
