"""What one replica does under a steady load: how many requests a second, and how long each of them waits."""

from dataclasses import dataclass
from typing import Final

from fathom_export.fit.workload import Objectives, Workload
from fathom_server.sizing.form import EngineForm
from fathom_server.sizing.roofline import Machine, Resource, decode_seconds, prefill_seconds
from fathom_server.sizing.shape import DecoderShape

HEADROOM: Final = 0.8
"""Of its capacity a replica is planned for: what is left takes what does not come evenly."""
MOST_BATCH: Final = 512


@dataclass(frozen=True, slots=True)
class Service:
    """A replica that keeps ``batch`` sequences going.

    ``prefill_s`` is the time of one prompt alone; ``ttft_s`` and ``itl_s`` are means in that company;
    ``requests_per_s`` is what it completes with no pause. ``…_binds`` names what takes longest in each phase.
    """

    batch: int
    prefill_s: float
    ttft_s: float
    itl_s: float
    requests_per_s: float
    prefill_binds: Resource
    decode_binds: Resource

    def output_tokens_per_s(self, workload: Workload) -> float:
        """Tokens of answers a second with no pause."""
        return self.requests_per_s * workload.generated_tokens

    def missed(self, workload: Workload) -> dict[str, float]:
        """The SLOs that it misses, with the values."""
        objectives: Objectives = workload.objectives
        return objectives.missed(self.ttft_s * 1e3, self.itl_s * 1e3, workload.generated_tokens)


def serve(
    machine: Machine, shape: DecoderShape, form: EngineForm, workload: Workload, batch: int, chunk: int
) -> Service:
    """The service with so many sequences at once.

    Each of them generates with the others at a mean context of the prompt and half of the answer; meanwhile prompts are
    computed as places become free, one prompt for every answer that ends. A request's first token waits for the steps
    of its own prompt, in each of which the others get a token, and, as in a queue of one server with fixed times
    (M/D/1, Pollaczek and Khinchine), for prompts that came at the same time.
    """
    prefill = prefill_seconds(machine, shape, form, workload.prompt_tokens, chunk)
    context = workload.prompt_tokens + workload.generated_tokens / 2
    step = decode_seconds(machine, shape, form, batch, context)
    turnover = batch / workload.generated_tokens  # answers that end, and so prompts that begin, a step
    itl_s = step.seconds + (turnover * prefill.seconds if batch > 1 else 0.0)
    cycle_s = prefill.seconds + workload.generated_tokens * step.seconds / batch
    chunks = -(-workload.prompt_tokens // chunk)
    others_s = chunks * decode_seconds(machine, shape, form, batch - 1, context).seconds if batch > 1 else 0.0
    busy = min(0.99, HEADROOM * prefill.seconds / cycle_s) if batch > 1 else 0.0
    waits_s = busy / (2 * (1 - busy)) * (prefill.seconds + others_s)
    return Service(
        batch=batch,
        prefill_s=prefill.seconds,
        ttft_s=prefill.seconds + others_s + waits_s,
        itl_s=itl_s,
        requests_per_s=1 / cycle_s,
        prefill_binds=prefill.binds,
        decode_binds=step.binds,
    )


def best_service(
    machine: Machine, shape: DecoderShape, form: EngineForm, workload: Workload, most: int, chunk: int
) -> Service:
    """The service with the most requests a second, of batches up to ``most``, that meets the SLOs.

    Where none meets them it is that of one request alone, which comes nearest.
    """
    chosen = serve(machine, shape, form, workload, 1, chunk)
    batch = 2
    while batch <= min(most, MOST_BATCH):
        tried = serve(machine, shape, form, workload, batch, chunk)
        if tried.missed(workload):
            break
        chosen = tried if tried.requests_per_s > chosen.requests_per_s else chosen
        batch += max(1, batch // 8)
    return chosen


def least_service(
    machine: Machine, shape: DecoderShape, form: EngineForm, workload: Workload, most: Service, rate: float, chunk: int
) -> Service:
    """The service of the smallest batch, up to that of ``most``, that completes ``rate`` requests a second."""
    batch = 1
    while batch < most.batch:
        tried = serve(machine, shape, form, workload, batch, chunk)
        if tried.requests_per_s >= rate:
            return tried
        batch += max(1, batch // 8)
    return most
