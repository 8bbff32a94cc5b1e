"""What Triton counts of a model, from ``ModelStatistics``."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """A version of a model since it was loaded; times are sums over its requests, in seconds.

    ``num_succeeded``, ``num_failed``: requests. ``num_inferences``: rows of their batches; ``num_executions``: times
    that the model ran for them. ``queue_s``: from a request's arrival until the model took it; ``compute_s``: from then
    to its answer's end.
    """

    name: str
    version: str
    num_succeeded: int
    num_failed: int
    num_inferences: int
    num_executions: int
    queue_s: float
    compute_s: float

    @property
    def mean_queue_s(self) -> float | None:
        """Seconds that a request waited, None before the first."""
        return self.queue_s / self.num_succeeded if self.num_succeeded else None

    @property
    def mean_compute_s(self) -> float | None:
        """Seconds that a request was worked on, None before the first."""
        return self.compute_s / self.num_succeeded if self.num_succeeded else None


def model_statistics(response: Any) -> tuple[ModelStatistics, ...]:
    """Read a ``ModelStatisticsResponse``."""
    return tuple(map(_of_model, response.model_stats))


def _of_model(stats: Any) -> ModelStatistics:
    times = stats.inference_stats
    return ModelStatistics(
        name=stats.name,
        version=stats.version,
        num_succeeded=times.success.count,
        num_failed=times.fail.count,
        num_inferences=stats.inference_count,
        num_executions=stats.execution_count,
        queue_s=times.queue.ns / 1e9,
        compute_s=(times.compute_input.ns + times.compute_infer.ns + times.compute_output.ns) / 1e9,
    )
