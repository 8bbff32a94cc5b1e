"""The table of GPUs, the service of a replica, and the choice among candidates."""

from dataclasses import replace

import pytest

from fathom_export.fit.gpus import load_gpus
from fathom_export.fit.plan import Reach, Target, gpu_candidates, gpu_precisions, ranked
from fathom_export.fit.service import best_service, least_service, serve
from fathom_export.fit.workload import Objectives, Workload
from fathom_server.sizing.form import EngineForm
from fathom_server.sizing.roofline import Accelerator
from fathom_server.sizing.shape import DecoderShape

LLAMA_8B = DecoderShape(
    hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128, intermediate=14336, vocabulary=128256,
    tied_embeddings=False, vector_values=266240,
)  # fmt: skip
LLAMA_70B = replace(LLAMA_8B, hidden=8192, layers=80, heads=64, intermediate=28672)
FP16 = EngineForm("fp16", "cuda")
GPU = Accelerator("gpu", 1e12, {"fp16": 1e14, "fp8": 2e14})
WORK = Workload(1000, 200)


def targets(*names: str) -> list[Target]:
    gpus = load_gpus()
    return [Target(gpus[name].name, gpus[name].title, gpus[name].memory_bytes, gpus[name]) for name in names or gpus]


def test_every_gpu_that_is_asked_about_is_there_with_a_source() -> None:
    """The issue's list, MIG slices among them; fp8 units come with compute capability 8.9."""
    gpus = load_gpus()
    asked = "t4 a10 a100-40 a100-80 l4 l40s rtx-4090 rtx-6000-ada rtx-pro-6000 h100-pcie h100-sxm h100-nvl h200 b200"
    assert {*asked.split()} <= {*gpus}
    assert any("mig" in name for name in gpus)
    for gpu in gpus.values():
        assert gpu.source
        assert gpu.has_fp8 == (gpu.compute_capability >= 8.9), gpu.name
        assert gpu.fp8_per_s == 0 or gpu.fp8_per_s == pytest.approx(2 * gpu.fp16_per_s, rel=0.02), gpu.name
        assert ("fp8" in gpu_precisions(gpu)) == gpu.has_fp8


def test_a_slice_is_less_than_its_gpu_and_shares_nothing() -> None:
    """Seven of the smallest slices are no more than the whole, in memory, bandwidth and rate; none has links."""
    gpus = load_gpus()
    whole, part = gpus["h100-sxm"], gpus["h100-mig-1g.10gb"]
    assert 7 * part.bandwidth_bytes_per_s < whole.bandwidth_bytes_per_s
    assert 7 * part.fp16_per_s < whole.fp16_per_s
    assert 7 * part.memory_bytes < whole.memory_bytes
    assert part.link_bytes_per_s == 0
    assert part.resource == "nvidia.com/mig-1g.10gb"


def test_a_larger_batch_completes_more_and_keeps_each_request_waiting_longer() -> None:
    """Requests a second, time to the first token and between tokens all rise with the batch."""
    services = [serve(GPU, LLAMA_8B, FP16, WORK, batch, 512) for batch in (1, 2, 8, 32, 128)]
    for name in ("requests_per_s", "ttft_s", "itl_s"):
        values = [getattr(service, name) for service in services]
        assert values == sorted(values), name


def test_throughput_is_what_the_cycle_allows() -> None:
    """A batch's answers end once in as many steps as they have tokens, prompts computed meanwhile."""
    service = serve(GPU, LLAMA_8B, FP16, WORK, 16, 512)
    assert service.requests_per_s == pytest.approx(16 / (WORK.generated_tokens * service.itl_s))


def test_the_best_service_is_the_largest_batch_within_the_slos() -> None:
    """The next batch that is tried would miss the SLO; the least one for a smaller rate is smaller."""
    work = replace(WORK, objectives=Objectives(itl_ms=40))
    best = best_service(GPU, LLAMA_8B, FP16, work, 512, 512)
    assert not best.missed(work)
    assert serve(GPU, LLAMA_8B, FP16, work, best.batch + max(1, best.batch // 8), 512).missed(work)
    small = least_service(GPU, LLAMA_8B, FP16, work, best, best.requests_per_s / 3, 512)
    assert small.batch < best.batch
    assert small.requests_per_s >= best.requests_per_s / 3


def test_memory_bounds_the_batch() -> None:
    """Where only three requests fit, no more are planned."""
    assert best_service(GPU, LLAMA_8B, FP16, WORK, 3, 512).batch == 3


def test_a_70b_model_needs_several_gpus_and_is_told_so() -> None:
    """140 GB of fp16 weights: four of 80 GB share a replica, over links; a slice cannot; fp8 needs fewer."""
    found = {
        (one.target.name, one.form.precision): one
        for one in gpu_candidates(LLAMA_70B, WORK, targets("h100-sxm", "b200", "h100-mig-3g.40gb"), (), Reach())
    }
    assert found["h100-sxm", "fp16"].ways in (2, 4)
    assert found["h100-sxm", "fp16"].engine == "vllm"
    assert found["h100-sxm", "fp8"].ways <= found["h100-sxm", "fp16"].ways
    assert found["b200", "fp16"].ways == 1
    assert not found["h100-mig-3g.40gb", "fp16"].fits


def test_more_gpus_a_replica_come_only_where_fewer_do_not_do() -> None:
    """A loose SLO takes one L4, a tight one two or more."""
    loose, tight = (
        next(iter(gpu_candidates(LLAMA_8B, replace(WORK, objectives=slo), targets("l4"), ("fp8",), Reach())))
        for slo in (Objectives(itl_ms=100), Objectives(itl_ms=25))
    )
    assert loose.ways == 1
    assert tight.ways > 1
    assert tight.meets


def test_without_prices_the_least_bandwidth_comes_first_and_prices_change_that() -> None:
    """An L4 goes before an H100, unless it costs more."""
    work = replace(WORK, rate=0.5)
    found = ranked(list(gpu_candidates(LLAMA_8B, work, targets("h100-sxm", "l4"), (), Reach())), work)
    assert found[0].target.name == "l4"
    dear = [replace(target, price={"l4": 9.0, "h100-sxm": 2.0}[target.name]) for target in targets("h100-sxm", "l4")]
    found = ranked(list(gpu_candidates(LLAMA_8B, work, dear, (), Reach())), work)
    assert found[0].target.name == "h100-sxm"


def test_what_is_reached_of_the_sheet_stretches_every_time() -> None:
    """Half of the bandwidth: a step that reads takes twice as long, but for its launch."""
    whole, half = (
        next(iter(gpu_candidates(LLAMA_8B, replace(WORK, requests=1), targets("h200"), ("fp16",), Reach(share, 0.5))))
        for share in (1.0, 0.5)
    )
    assert whole.service is not None
    assert half.service is not None
    assert half.service.itl_s == pytest.approx(2 * whole.service.itl_s, rel=0.03)
