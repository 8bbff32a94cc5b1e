"""One plan from a graph in the repository, or nothing: ``model.plan`` and its passport appear together."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fathom_export.errors import PlanError
from fathom_export.export_model import Outcome, Reporter
from fathom_server.engine.plan_passport import (
    PLAN_FILE,
    PLAN_PASSPORT_FILE,
    PlanOptions,
    PlanPassport,
    PlanPrecision,
    PlanRuntime,
    PlanUse,
    fp8_fault,
    hash_file,
    plan_command,
    plan_fault,
)
from fathom_server.errors import DeviceError, SettingsError

if TYPE_CHECKING:
    from fathom_export.tensorrt.subject import PlanSubject

_CACHE_FOLDER: Final = Path("~/.cache/fathom")
_CACHE_VARIABLE: Final = "FATHOM_CACHE"
_HELD_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_ONNXRUNTIME_PARAMETERS: Final = ("intra_op_thread_count", "inter_op_thread_count", "session.")


def build_plan(
    model: str,
    repository: Path,
    options: PlanOptions,
    reporter: Reporter,
    *,
    precision: PlanPrecision | None = None,
    timing_cache: Path | None = None,
    force: bool = False,
) -> Outcome:
    """Build ``model.plan`` of a model beside its ``model.onnx``, unless the one there is from the same graph and tools.

    ``precision`` None takes the one that suits the graph; ``options.precision`` is replaced by it. An encoder's
    ``config.pbtxt`` then names Triton's tensorrt backend. Raises PlanError; then the repository is as it was.
    """
    from fathom_export.tensorrt.builder import PlanTask, build
    from fathom_export.tensorrt.half_precision import is_float32, write_half
    from fathom_export.tensorrt.messages import BuildMessages
    from fathom_export.tensorrt.subject import find_subject
    from fathom_server.engine.runner.cuda import describe_runtime, import_tensorrt

    begin = time.monotonic()
    reporter.begin(model, f"finding {model}")
    subject = find_subject(model, repository, precision)
    options = replace(options, precision="fp8" if subject.precision == "fp8" else "fp16")
    try:
        trt, runtime = import_tensorrt(), describe_runtime()
    except (SettingsError, DeviceError) as error:
        raise PlanError(str(error)) from error
    fault = fp8_fault(options.precision, runtime)
    if fault is not None:
        raise PlanError(f"the plan {fault}; build it with a graph in fp16")
    reporter.begin(model, "comparing with what is there")
    data = subject.graph.with_name(subject.graph.name + ".data")
    wanted = PlanPassport(
        built_with=runtime,
        options=options,
        onnx_sha256=hash_file(subject.graph),
        weights_sha256=hash_file(data) if data.is_file() else None,
        profiles=subject.profiles,
        plan_bytes=0,
        created="",
    )
    plan = subject.folder / PLAN_FILE
    if not force and _is_up_to_date(subject.folder, wanted):
        return _outcome(model, subject, True, plan.stat().st_size, begin)
    lowered = is_float32(subject.graph)
    _refuse_strip(subject, options, lowered=lowered)

    from fathom_export.passport import now
    from fathom_export.repository.staging import staged

    with staged(repository, subject.name) as staging:
        graph = subject.graph
        if lowered:
            reporter.begin(model, "lowering the graph to float16")
            graph = staging / graph.name
            write_half(subject.graph, graph)

        def on_progress(phase: str, done: int, total: int) -> None:
            if done == 0:
                reporter.begin(model, f"TensorRT {trt.__version__}: {phase}")
            reporter.advance(done, total)

        reporter.begin(model, f"asking TensorRT {trt.__version__} about every operator")
        cache = timing_cache if timing_cache is not None else default_timing_cache(runtime)
        task = PlanTask(subject.name, graph, subject.profiles, options, cache, subject.is_decoder)
        size = build(trt, task, BuildMessages(trt, on_progress), staging / PLAN_FILE)
        replace(wanted, plan_bytes=size, created=now()).save(staging / PLAN_PASSPORT_FILE)
        _move_in(subject, staging, repository)
    return _outcome(model, subject, False, size, begin)


def _outcome(model: str, subject: "PlanSubject", was_up_to_date: bool, size: int, begin: float) -> Outcome:
    version = int(subject.folder.name)
    return Outcome(model, (subject.name,), version, version, was_up_to_date, size, time.monotonic() - begin)


def default_timing_cache(runtime: PlanRuntime) -> Path:
    """Where timings are kept unless a file is named: one file for each TensorRT and GPU."""
    folder = Path(os.environ.get(_CACHE_VARIABLE) or _CACHE_FOLDER).expanduser()
    major, minor = runtime.compute_capability
    gpu = "".join(letter if letter.isalnum() else "-" for letter in runtime.gpu)
    return folder / f"timing-{runtime.tensorrt}-sm{major}{minor}-{gpu}.cache"


def _is_up_to_date(folder: Path, wanted: PlanPassport) -> bool:
    try:
        found = PlanPassport.load(folder / PLAN_PASSPORT_FILE)
        size = (folder / PLAN_FILE).stat().st_size
    except (SettingsError, OSError):
        return False
    use = PlanUse(wanted.built_with, wanted.onnx_sha256, wanted.weights_sha256, size)
    same = (found.options, found.profiles) == (wanted.options, wanted.profiles)
    return same and plan_fault(found, use, plan_command(folder, wanted.options)) is None


def _refuse_strip(subject: "PlanSubject", options: PlanOptions, *, lowered: bool) -> None:
    """A stripped plan gets its weights from the ONNX file when it is loaded: the same weights that it was built of."""
    from fathom_export.tensorrt.subject import export_command

    if options.strip and not subject.is_decoder:
        raise PlanError(f"--strip is for LLMs: Triton's tensorrt backend gives {subject.name} no weights; leave it out")
    if options.strip and lowered:
        command = export_command(subject.folder, "generate", "fp16")
        raise PlanError(f"--strip needs a graph whose weights are in fp16 already; export it again: {command}")


def _move_in(subject: "PlanSubject", staging: Path, repository: Path) -> None:
    """Move plan, passport and, for an encoder, the new config into place, unharmed by Ctrl-C."""
    from fathom_export.passport import record_file
    from fathom_export.tensorrt.subject import CONFIG_FILE

    moves = [(staging / name, subject.folder / name) for name in (PLAN_FILE, PLAN_PASSPORT_FILE)]
    places = (subject.folder, subject.folder.parent)  # each version keeps its own config, the served one stands above
    configs = [place / CONFIG_FILE for place in places if not subject.is_decoder and (place / CONFIG_FILE).is_file()]
    for number, config in enumerate(configs):
        staged_config = staging / f"{number}-{CONFIG_FILE}"
        staged_config.write_text(_tensorrt_config(config, len(subject.profiles)), encoding="utf-8")
        moves.append((staged_config, config))
    with _signals_held():
        for source, destination in moves:
            source.replace(destination)
        for config in configs:
            name = config.relative_to(repository).as_posix()
            record_file(subject.folder / "passport.json", name, hash_file(config))


def _tensorrt_config(path: Path, profile_count: int) -> str:
    """The encoder's config for Triton's tensorrt backend, which chooses among the profiles request by request."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    from fathom_export.tensorrt.subject import read_config

    config = read_config(path.parent)
    config.backend = "tensorrt"
    config.default_model_filename = PLAN_FILE
    count = max(1, sum(group.count for group in config.instance_group))
    del config.instance_group[:]
    profiles = [str(index) for index in range(profile_count)]
    config.instance_group.add(count=count, kind=model_config_pb2.ModelInstanceGroup.KIND_GPU, profile=profiles)
    for key in list(config.parameters):
        if key.startswith(_ONNXRUNTIME_PARAMETERS):
            del config.parameters[key]
    return str(text_format.MessageToString(config, as_utf8=True))


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is over."""
    before: Any = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
