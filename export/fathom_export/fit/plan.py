"""Which machine a workload needs: every candidate with its memory, its times and its replicas, the best one first."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from fathom_export.errors import FitError
from fathom_export.fit.gpus import Gpu
from fathom_export.fit.service import HEADROOM, MOST_BATCH, Service, best_service, least_service, serve
from fathom_export.fit.workload import Workload
from fathom_export.quantise.table import valid_precisions
from fathom_server.engine.settings import EngineLimits
from fathom_server.sizing.form import CUDA_BLOCK_TOKENS, EngineForm
from fathom_server.sizing.memory import EngineMemory, Load, Memory
from fathom_server.sizing.roofline import Accelerator, Machine, Processor
from fathom_server.sizing.served import ServedProcessor
from fathom_server.sizing.shape import DecoderShape, Precision, Runner

GPU_CHUNK: Final = 512
"""Prompt tokens of a step on a GPU: enough rows that products, not weights, bind."""
PAGED_CAPABILITY: Final = 8.0
"""ONNX Runtime's PagedAttention takes no GPU before it (``docs/gpu.md``); there a TensorRT plan serves."""
WAYS: Final = (1, 2, 4, 8)

_GIB: Final = 1 << 30
_MIB: Final = 1 << 20
_LAUNCH_S: Final = 50e-6
"""Of a captured step: one graph launch, and the tokens' way back."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What share of a data sheet's figures the kernels reach; assumptions, for none has been measured here."""

    bandwidth: float = 0.7
    compute: float = 0.5

    def __post_init__(self) -> None:
        for flag, share in (("--bandwidth-share", self.bandwidth), ("--compute-share", self.compute)):
            if not 0 < share <= 1:
                raise FitError(f"{flag} is {share:g}; give a share above 0 and up to 1")


@dataclass(frozen=True, slots=True)
class Target:
    """A machine that may serve: ``gpu`` is None for a CPU. ``price`` is of one for an hour, None where nobody said."""

    name: str
    title: str
    memory_bytes: int
    gpu: Gpu | None
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target with a precision, and what it does with the workload.

    ``ways`` machines share one replica's model. ``memory`` is that of each of them with ``service.batch`` requests,
    ``most_requests`` how many fit. ``service`` is None where not one request fits, or where no speed is known.
    ``missed`` are the SLOs that it misses. ``replicas`` is None without a rate.
    """

    target: Target
    form: EngineForm
    ways: int
    memory: Memory
    most_requests: int
    machine: Machine | None
    shape: DecoderShape
    service: Service | None
    missed: Mapping[str, float]
    replicas: int | None
    engine: str

    @property
    def fits(self) -> bool:
        """Whether at least one request fits into the memory."""
        return self.most_requests > 0

    @property
    def meets(self) -> bool:
        """Whether it fits and meets every SLO."""
        return self.service is not None and not self.missed

    @property
    def machines(self) -> int:
        """Machines of all replicas."""
        return self.ways * (self.replicas or 1)

    @property
    def price_per_hour(self) -> float | None:
        """Of all machines; None without a price."""
        return None if self.target.price is None else self.target.price * self.machines

    def cost_per_million_tokens(self, workload: Workload) -> float | None:
        """Of a million generated tokens, prompts included, at the rate, or with no pause where there is none."""
        price = self.price_per_hour
        if price is None or self.service is None:
            return None
        tokens_per_s = self.service.output_tokens_per_s(workload)
        if workload.rate is not None:
            tokens_per_s = workload.rate * workload.generated_tokens
        return price / (tokens_per_s * 3600) * 1e6


def gpu_candidates(
    shape: DecoderShape, workload: Workload, targets: Sequence[Target], precisions: Sequence[str], reach: Reach
) -> Iterator[Candidate]:
    """Every GPU in every precision that it is fast at; with more GPUs a replica only where fewer do not do."""
    for target in targets:
        if target.gpu is None:
            continue
        for precision in gpu_precisions(target.gpu):
            if precisions and precision not in precisions:
                continue
            tried: Candidate | None = None
            for ways in WAYS:
                part = shape.shard(ways)
                if part is None or (ways > 1 and not target.gpu.link_bytes_per_s):
                    continue
                tried = _on_gpu(part, workload, target, target.gpu, precision, ways, reach)
                if tried.meets:
                    break
            if tried is not None:
                yield tried


def gpu_precisions(gpu: Gpu) -> tuple[Precision, ...]:
    """The precisions that a GPU's tensor cores, and the dialect that it is served with, both have."""
    valid = valid_precisions("generate", "portable" if gpu.compute_capability < PAGED_CAPABILITY else "cuda")
    return tuple(
        precision
        for precision in get_args(Precision)
        if precision in valid and (precision == "fp16" or (precision == "fp8" and gpu.has_fp8))
    )


def _on_gpu(
    part: DecoderShape, workload: Workload, target: Target, gpu: Gpu, precision: Precision, ways: int, reach: Reach
) -> Candidate:
    runner: Runner = "cuda" if gpu.compute_capability >= PAGED_CAPABILITY else "plan"
    form = EngineForm(precision, runner)
    # the cuda graph's fp8 weights are multiplied in float16; vLLM's and a plan's in fp8
    fp8_per_s = gpu.fp16_per_s if runner == "cuda" and ways == 1 else gpu.fp8_per_s
    machine = Accelerator(
        name=target.name,
        bandwidth_bytes_per_s=gpu.bandwidth_bytes_per_s,
        operations_per_s={"fp16": gpu.fp16_per_s, "fp8": fp8_per_s},
        bandwidth_share=reach.bandwidth,
        compute_share=reach.compute,
        launch_s=_LAUNCH_S,
        ways=ways,
        link_bytes_per_s=gpu.link_bytes_per_s,
    )
    engine = "fathom" if ways == 1 else "vllm"
    return _candidate(part, workload, target, form, machine, ways, GPU_CHUNK, engine)


def cpu_candidate(
    shape: DecoderShape, workload: Workload, target: Target, form: EngineForm, processor: Processor | None, chunk: int
) -> Candidate:
    """A machine like the one of the calibration; without one its speed is not known."""
    machine = None if processor is None else ServedProcessor(processor)
    return _candidate(shape, workload, target, form, machine, 1, chunk, "fathom")


def _candidate(
    shape: DecoderShape,
    workload: Workload,
    target: Target,
    form: EngineForm,
    machine: Machine | None,
    ways: int,
    chunk: int,
    engine: str,
) -> Candidate:
    context = -(-workload.context // CUDA_BLOCK_TOKENS) * CUDA_BLOCK_TOKENS if form.on_gpu else workload.context
    limits = EngineLimits(max_context=context, prefill_chunk=chunk)
    sized = EngineMemory(shape, form, limits, context)
    one = Load(1, workload.prompt_tokens, workload.generated_tokens)
    most = sized.largest_requests(one, target.memory_bytes)
    service = None
    if machine is not None and most:
        if workload.requests is not None:
            service = serve(machine, shape, form, workload, min(workload.requests, most), chunk)
        else:
            service = best_service(machine, shape, form, workload, most, chunk)
    replicas = None
    if workload.rate is not None and service is not None and machine is not None:
        replicas = max(1, math.ceil(workload.rate / (service.requests_per_s * HEADROOM)))
        service = least_service(machine, shape, form, workload, service, workload.rate / replicas / HEADROOM, chunk)
    missed = {} if service is None else service.missed(workload)
    requests = service.batch if service is not None else max(1, min(most, workload.requests or most, MOST_BATCH))
    load = Load(requests, workload.prompt_tokens, workload.generated_tokens)
    if workload.requests is not None and most:
        replicas = math.ceil(workload.requests / most)
    memory = sized.sized_for(load).under(load)
    return Candidate(target, form, ways, memory, most, machine, shape, service, missed, replicas, engine)


def ranked(candidates: Sequence[Candidate], workload: Workload) -> list[Candidate]:
    """Those that meet the SLOs, the cheapest first; without prices, the least memory bandwidth in total.

    CPUs stand before GPUs then, and among equals the one that generates fastest.
    """

    def effort(candidate: Candidate) -> tuple[float, float, int, float]:
        price = candidate.price_per_hour
        gpu = candidate.target.gpu
        bandwidth = 0.0 if gpu is None else gpu.bandwidth_bytes_per_s * candidate.machines
        itl_s = math.inf if candidate.service is None else candidate.service.itl_s
        return (math.inf if price is None else price, bandwidth, candidate.machines, itl_s)

    return sorted((one for one in candidates if one.meets), key=effort)


def nearest(candidates: Sequence[Candidate], workload: Workload) -> str:
    """What comes nearest where nothing meets the workload, and why it does not, in a sentence."""
    with_service = [one for one in candidates if one.service is not None]
    if with_service:

        def distance(candidate: Candidate) -> float:
            bounds = workload.objectives.given()
            return max((value / bounds[name] for name, value in candidate.missed.items()), default=0.0)

        best = min(with_service, key=distance)
        figures = ", ".join(
            f"{name} {value:.3g} (asked: {workload.objectives.given()[name]:g})" for name, value in best.missed.items()
        )
        return f"nearest is {best.target.title} in {best.form.precision}{_ways(best)}: {figures}"
    unsized = [one for one in candidates if one.fits]
    if unsized:
        return "their speed is not known; run fathom-fit calibrate on the machine that serves"
    if not candidates:
        return "no target is left; name other GPUs or precisions"
    best = min(candidates, key=lambda one: one.memory.total / one.target.memory_bytes)
    return (
        f"nearest is {best.target.title} in {best.form.precision}{_ways(best)}: one request takes "
        f"{gib(best.memory.total)} of its {gib(best.target.memory_bytes)}"
    )


def _ways(candidate: Candidate) -> str:
    return "" if candidate.ways == 1 else f" on {candidate.ways} of them"


def gib(size: float) -> str:
    """A size as people read it."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _MIB:.0f} MiB"
