"""What is asked of everybody: the same prompts, lengths and arrivals for all, others in every round."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.peers.workers.line_protocol import Answer, Job

SEED: Final = 20251121
FIRST_TOKEN: Final = 260
"""The tokens below are the end token and single bytes."""

Measure = str
MEASURES: Final[tuple[Measure, ...]] = ("decode_1", "prefill_512", "throughput_8", "throughput_16", "paced_goodput")


@dataclass(frozen=True, slots=True)
class Workload:
    """Lengths are in tokens. The paced run's requests arrive by a Poisson process and must meet both objectives.

    ``itl_slo_ms`` is for (last token - first token) / (tokens - 1), one value a request, as AIPerf defines it.
    """

    prompt_tokens: int = 128
    answer_tokens: int = 128
    prefill_tokens: int = 512
    prefills_a_turn: int = 2
    paced_requests: int = 24
    paced_requests_per_s: float = 2.0
    paced_prompt_tokens: tuple[int, ...] = (32, 64, 128, 256, 384)
    paced_answer_tokens: tuple[int, ...] = (16, 32, 64, 96, 128)
    ttft_slo_ms: float = 1000.0
    itl_slo_ms: float = 100.0
    vocabulary: int = 49152

    def jobs(self, measure: Measure, round_: int) -> list[list[Job]]:
        """The runs of one turn, each a list of requests."""
        source = random.Random(f"{SEED} {measure} {round_}")
        if measure == "decode_1":
            return [[self._job(source, self.prompt_tokens, self.answer_tokens)]]
        if measure == "prefill_512":
            return [[self._job(source, self.prefill_tokens, 1)] for _ in range(self.prefills_a_turn)]
        if measure == "paced_goodput":
            return [self._paced(source)]
        count = int(measure.removeprefix("throughput_"))
        return [[self._job(source, self.prompt_tokens, self.answer_tokens) for _ in range(count)]]

    def warm_up(self) -> list[list[Job]]:
        """Every shape once, with short answers."""
        runs = [run for measure in MEASURES if measure != "paced_goodput" for run in self.jobs(measure, -1)]
        return [[replace(job, max_tokens=min(job.max_tokens, 16)) for job in run] for run in runs]

    def awakening(self) -> list[Job]:
        """A short request before each turn, so that nobody pays for having been idle."""
        return [self._job(random.Random(SEED), 16, 4)]

    def _paced(self, source: random.Random) -> list[Job]:
        at_s, jobs = 0.0, []
        for _ in range(self.paced_requests):
            prompt, answer = source.choice(self.paced_prompt_tokens), source.choice(self.paced_answer_tokens)
            jobs.append(self._job(source, prompt, answer, at_s))
            at_s += source.expovariate(self.paced_requests_per_s)
        return jobs

    def _job(self, source: random.Random, prompt: int, answer: int, at_s: float = 0.0) -> Job:
        tokens = [source.randrange(FIRST_TOKEN, self.vocabulary) for _ in range(prompt)]
        return Job(at_s=at_s, prompt=tokens, max_tokens=answer)


@dataclass(frozen=True, slots=True)
class Run:
    """One contender's run of one measure. ``value`` is what the measure compares, higher is better.

    ``details`` are further figures of it; ``processor_s`` is the processor time that it used, of all its processes and
    its client: other work on the machine stretches the wall time, and this one much less. ``neighbours_cores``
    is how many cores the other contenders kept busy meanwhile, and ``strangers_cores`` everything else on the machine.
    """

    contender: str
    measure: Measure
    round: int
    value: float
    details: dict[str, float]
    processor_s: float
    neighbours_cores: float
    strangers_cores: float


def judge(
    workload: Workload, measure: Measure, jobs: list[Job], answers: list[Answer]
) -> tuple[float, dict[str, float]]:
    """A run's value and details; raises ValueError where an answer has not the length that was asked for."""
    for job, answer in zip(jobs, answers, strict=True):
        if answer.tokens != job.max_tokens:
            raise ValueError(f"{measure}: an answer has {answer.tokens} tokens, and {job.max_tokens} were asked for")
    return _JUDGES[measure.rstrip("_0123456789")](workload, jobs, answers)


def _decode(workload: Workload, jobs: list[Job], answers: list[Answer]) -> tuple[float, dict[str, float]]:
    (answer,) = answers
    rate = (answer.tokens - 1) / (answer.last_s - answer.first_s)
    return rate, {"ttft_ms": answer.first_s * 1e3, "end_to_end_tokens_per_s": answer.tokens / answer.last_s}


def _prefill(workload: Workload, jobs: list[Job], answers: list[Answer]) -> tuple[float, dict[str, float]]:
    (job,), (answer,) = jobs, answers
    return len(job.prompt) / answer.first_s, {"ttft_ms": answer.first_s * 1e3}


def _throughput(workload: Workload, jobs: list[Job], answers: list[Answer]) -> tuple[float, dict[str, float]]:
    wall = max(answer.last_s for answer in answers)
    return sum(answer.tokens for answer in answers) / wall, {
        "ttft_ms": max(answer.first_s for answer in answers) * 1e3,
        "longest_gap_ms": max(answer.longest_gap_s for answer in answers) * 1e3,
    }


def _paced(workload: Workload, jobs: list[Job], answers: list[Answer]) -> tuple[float, dict[str, float]]:
    ttfts = [1e3 * (answer.first_s - job.at_s) for job, answer in zip(jobs, answers, strict=True)]
    itls = [1e3 * (answer.last_s - answer.first_s) / (answer.tokens - 1) for answer in answers]
    pairs = zip(ttfts, itls, strict=True)
    good = sum(ttft <= workload.ttft_slo_ms and itl <= workload.itl_slo_ms for ttft, itl in pairs)
    wall = max(answer.last_s for answer in answers)
    middle = len(jobs) // 2
    return good / wall, {
        "good_share": good / len(jobs),
        "tokens_per_s": sum(answer.tokens for answer in answers) / wall,
        "ttft_p50_ms": sorted(ttfts)[middle],
        "ttft_max_ms": max(ttfts),
        "itl_p50_ms": sorted(itls)[middle],
        "itl_max_ms": max(itls),
    }


_JUDGES: Final[dict[str, Callable[..., tuple[float, dict[str, Any]]]]] = {
    "decode": _decode,
    "prefill": _prefill,
    "throughput": _throughput,
    "paced_goodput": _paced,
}
