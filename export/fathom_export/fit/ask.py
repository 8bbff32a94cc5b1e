"""From the command's arguments to a question, and from the question to its answer."""

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from fathom_export.errors import FitError
from fathom_export.fit.answer import Answer, FormMemory
from fathom_export.fit.calibration import Calibration, default_file, machine_name
from fathom_export.fit.gpus import Gpu, find_gpus, load_gpus
from fathom_export.fit.plan import Candidate, Reach, Target, cpu_candidate, gpu_candidates, nearest, ranked
from fathom_export.fit.source import SizedSource, read_source
from fathom_export.fit.workload import Objectives, Workload
from fathom_export.quantise.table import valid_precisions
from fathom_export.spec import GenerateSpec, read_bundle
from fathom_export.spec.model_spec import VllmSpec
from fathom_server.engine.settings import EngineLimits
from fathom_server.sizing.form import EngineForm
from fathom_server.sizing.machine_memory import memory_limit
from fathom_server.sizing.memory import EngineMemory
from fathom_server.sizing.shape import Precision

CPU: Final = "cpu"
DEFAULT_NAME: Final = "chat"
DEFAULT_INT4_BLOCK: Final = 128
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked; ``spec`` is the bundle's model, None for a bare source."""

    name: str
    source: str
    base: Path
    spec: GenerateSpec | None
    workload: Workload
    precisions: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    with_cpu: bool
    memory_bytes: int
    calibration: Calibration | None
    prices: Mapping[str, float]
    reach: Reach


def question(arguments: argparse.Namespace) -> Question:
    """Check the arguments; raises FitError or SpecError naming the flag."""
    named: GenerateSpec | VllmSpec | None = None
    base = Path()
    if arguments.source.endswith(".toml"):
        named, base = _model(Path(arguments.source), arguments.model)
    elif arguments.model is not None:
        raise FitError(f"--model {arguments.model} is given, but {arguments.source} is no bundle (*.toml)")
    if arguments.no_cpu and arguments.no_gpu:
        raise FitError("--no-cpu and --no-gpu leave nothing to run on; leave one of them out")
    if arguments.no_gpu and arguments.gpu:
        raise FitError("--no-gpu and --gpu are both given; leave one of them out")
    known = load_gpus(arguments.gpus)
    gpus = () if arguments.no_gpu else find_gpus(known, tuple(arguments.gpu))
    workload = Workload(
        prompt_tokens=arguments.input_tokens,
        generated_tokens=arguments.output_tokens,
        requests=arguments.requests,
        rate=arguments.rate,
        objectives=Objectives() if arguments.slo is None else Objectives.parse(arguments.slo),
    )
    spec = named if isinstance(named, GenerateSpec) else None
    precisions = tuple(arguments.precision)
    if named is not None and not precisions and named.precision in get_args(Precision):
        precisions = (named.precision,)
    return Question(
        name=DEFAULT_NAME if named is None else named.name,
        source=arguments.source if named is None else named.source,
        base=base,
        spec=spec,
        workload=workload,
        precisions=precisions,
        gpus=gpus,
        with_cpu=not arguments.no_cpu and (named is None or (spec is not None and spec.dialect == "cpu")),
        memory_bytes=_memory_bytes(arguments.memory_gib),
        calibration=_calibration(arguments.calibration),
        prices=dict(_prices(arguments.price, known)),
        reach=Reach(arguments.bandwidth_share, arguments.compute_share),
    )


def answer_question(asked: Question) -> Answer:
    """Read the source's headers and compute; raises ExportError."""
    source = read_source(asked.source, asked.base)
    workload = asked.workload
    if workload.context > source.context_limit:
        raise FitError(
            f"--input-tokens {workload.prompt_tokens} and --output-tokens {workload.generated_tokens} are "
            f"{workload.context} tokens, but {asked.source} was made for {source.context_limit}; ask for fewer"
        )
    candidates: list[Candidate] = []
    forms: tuple[FormMemory, ...] = ()
    if asked.with_cpu:
        cpu_forms = list(_cpu_forms(asked))
        if not cpu_forms and not asked.gpus:
            valid = ", ".join(valid_precisions("generate", "cpu"))
            raise FitError(f"--precision {' '.join(asked.precisions)} is none of a CPU's; give {valid}")
        forms = tuple(_form_memory(asked, source, form) for form in cpu_forms)
        candidates += [_cpu_candidate(asked, source, form) for form in cpu_forms]
    targets = [Target(gpu.name, gpu.title, gpu.memory_bytes, gpu, asked.prices.get(gpu.name)) for gpu in asked.gpus]
    candidates += gpu_candidates(source.shape, workload, targets, asked.precisions, asked.reach)
    if not candidates:
        raise FitError(
            f"none of these GPUs is fast in --precision {' '.join(asked.precisions)}; GPUs take fp16, and fp8 where "
            "they have the units"
        )
    best = ranked(candidates, workload)
    # without speeds there is nothing to choose by, and nothing that misses it
    asks = bool(workload.objectives.given()) or workload.rate is not None
    sized = any(one.fits for one in candidates)
    shortfall = nearest(candidates, workload) if not best and (asks or not sized) else None
    return Answer(source, workload, forms, tuple(candidates), tuple(best), _notes(asked, candidates), shortfall)


def _cpu_forms(asked: Question) -> Iterator[EngineForm]:
    wanted = asked.precisions or valid_precisions("generate", "cpu")
    limits = EngineLimits() if asked.spec is None else EngineLimits(**asked.spec.limits)  # type: ignore[arg-type]
    quantisation = None if asked.spec is None else asked.spec.quantisation
    for precision in valid_precisions("generate", "cpu"):
        if precision in wanted:
            yield cpu_form(
                precision,  # type: ignore[arg-type]  # the table's
                block_size=DEFAULT_INT4_BLOCK if quantisation is None else quantisation.block_size,
                zero_points=quantisation is not None and quantisation.int4_method == "hqq",
                kv_dtype=limits.kv_cache_dtype,
            )


def cpu_form(precision: Precision, *, block_size: int, zero_points: bool, kv_dtype: str) -> EngineForm:
    """How an export of the cpu dialect is served where Fathom's operators are built."""
    if precision == "fp32":
        return EngineForm(precision, "stock")
    return EngineForm(precision, "native", block_size, zero_points and precision == "int4", kv_dtype)


def _limits(asked: Question) -> EngineLimits:
    chunk = EngineLimits().prefill_chunk
    if asked.spec is not None:
        chunk = int(asked.spec.limits.get("prefill_chunk", chunk))
    return EngineLimits(max_context=asked.workload.context, prefill_chunk=chunk)


def _form_memory(asked: Question, source: SizedSource, form: EngineForm) -> FormMemory:
    sized = EngineMemory(source.shape, form, _limits(asked), asked.workload.context)
    requests = asked.workload.requests or EngineLimits().max_batch
    return FormMemory.of(sized, asked.workload, requests, asked.memory_bytes, source.context_limit)


def _cpu_candidate(asked: Question, source: SizedSource, form: EngineForm) -> Candidate:
    target = Target(CPU, "CPU", asked.memory_bytes, None, asked.prices.get(CPU))
    processor = None if asked.calibration is None else asked.calibration.processor
    return cpu_candidate(source.shape, asked.workload, target, form, processor, _limits(asked).prefill_chunk)


def _notes(asked: Question, candidates: list[Candidate]) -> tuple[str, ...]:
    notes = []
    if asked.with_cpu and asked.calibration is None:
        notes.append("a CPU's speed is known after `fathom-fit calibrate` on it")
    if asked.calibration is not None and asked.with_cpu:
        found = asked.calibration
        notes.append(f"CPU times: {found.machine}, {found.threads} threads, measured {found.created}")
        if found.machine != machine_name():
            notes.append(f"the calibration is of {found.machine}, and this machine is {machine_name()}")
    if any(one.target.gpu is not None for one in candidates):
        notes.append(
            f"GPU times: data sheets, of which {asked.reach.bandwidth:.0%} of the bandwidth and "
            f"{asked.reach.compute:.0%} of the matrix rate are taken to be reached: assumptions, measured on no GPU"
        )
    if any(one.form.precision == "fp8" and one.form.runner == "cuda" for one in candidates):
        notes.append("fp8 on one GPU: weights in fp8, products in float16 (docs/gpu.md); tensor parallel: fp8 units")
    if any(one.ways > 1 for one in candidates):
        notes.append("more than one GPU a replica needs tensor parallelism: Triton's vLLM backend, not Fathom's engine")
    return tuple(notes)


def _model(path: Path, name: str | None) -> tuple[GenerateSpec | VllmSpec, Path]:
    bundle = read_bundle(path)
    models = {spec.name: spec for spec in bundle.models if isinstance(spec, GenerateSpec | VllmSpec)}
    others = [spec.name for spec in bundle.models if spec.name not in models]
    if name is None and len(models) != 1:
        raise FitError(f"{path} has {len(models)} LLMs; name one as --model: {', '.join(models) or 'it has none'}")
    chosen = name if name is not None else next(iter(models))
    if chosen in others:
        raise FitError(
            f"--model {chosen} is no LLM with weights of its own; those are sized here: "
            f"{', '.join(models) or 'the bundle has none'}"
        )
    if chosen not in models:
        raise FitError(f"--model {chosen} is no LLM of {path}; there are {', '.join(models)}")
    return models[chosen], bundle.folder


def _memory_bytes(gibibytes: float | None) -> int:
    if gibibytes is None:
        found = memory_limit()
        if found is None:
            raise FitError("nobody says how much memory this machine has; give it as --memory-gib")
        return found
    if not 0 < gibibytes < math.inf:
        raise FitError(f"--memory-gib is {gibibytes:g}; give a number above 0")
    return round(gibibytes * _GIB)


def _calibration(path: Path | None) -> Calibration | None:
    if path is not None:
        return Calibration.load(path)
    return Calibration.load(default_file()) if default_file().is_file() else None


def _prices(given: list[str], gpus: Mapping[str, Gpu]) -> Iterator[tuple[str, float]]:
    for text in given:
        name, _, number = text.partition("=")
        if name not in (CPU, *gpus):
            raise FitError(f"--price {text!r} names no machine; write NAME=PRICE, NAME one of {CPU}, {', '.join(gpus)}")
        try:
            price = float(number)
        except ValueError:
            price = math.nan
        if not 0 < price < math.inf:
            raise FitError(f"--price {text!r} has no price; write {name}=PRICE, of an hour, above 0")
        yield name, price
