"""How busy the load generator itself was: a late generator reports its own delays as the server's."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import gevent

from fathom_loadtest.environment import available_cores
from fathom_loadtest.metrics import Distribution, StageFigures, Statistics

_SAMPLE_EVERY_S: Final = 0.02
CPU_SHARE_LIMIT: Final = 0.8
"""Share of one core from which on the event loop counts as busy: it runs in one thread, so 1.0 is all it can get."""
CORES_SHARE_LIMIT: Final = 0.9
"""Share of all cores that it has from which on the process counts as busy; gRPC's threads need some, too."""
LAG_SHARE_LIMIT: Final = 0.1
"""Share of a median latency that the event loop's delay (p95) may reach before it colours the figures."""


@dataclass(frozen=True, slots=True)
class GeneratorLoad:
    """Load of the generator in one stage.

    ``loop_cpu_share`` is CPU time of the event loop's thread, ``process_cpu_share`` of all threads, each divided by
    wall time (1.0 = one core), ``cores`` how many the process may keep busy; of several ``workers``, those of the
    busiest. ``lag_ms`` tells how late the event loops woke a timer, in milliseconds.
    """

    loop_cpu_share: float
    process_cpu_share: float
    lag_ms: Statistics | None
    workers: int = 1
    cores: float | None = None

    @classmethod
    def of_workers(cls, loads: "Sequence[tuple[GeneratorLoad, Distribution]]") -> Self:
        """Join the loads and lags of several processes."""
        lags = Distribution()
        for _, lag in loads:
            lags.merge(lag)
        alone = [load for load, _ in loads]
        busiest = max(alone, key=lambda load: load.process_cpu_share / (load.cores or 1.0), default=cls(0.0, 0.0, None))
        loop_cpu_share = max((load.loop_cpu_share for load in alone), default=0.0)
        return cls(loop_cpu_share, busiest.process_cpu_share, lags.statistics(), len(alone), busiest.cores)

    def warnings(self, figures: StageFigures) -> tuple[str, ...]:
        """Say where the generator rather than the server was the limit."""
        found = []
        if self.loop_cpu_share >= CPU_SHARE_LIMIT:
            found.append(
                f"the generator was the limit: its event loop used {self.loop_cpu_share:.0%} of a core; "
                "use more workers (--workers), or fewer users"
            )
        elif self.cores is not None and self.process_cpu_share >= CORES_SHARE_LIMIT * self.cores:
            found.append(
                f"the generator was the limit: it used {self.process_cpu_share:.2f} of the {self.cores:g} cores that "
                "it has; give it more, or use workers on other machines"
            )
        latency = figures.ttft_ms or figures.request_latency_ms
        if self.lag_ms and latency and self.lag_ms.p95 > LAG_SHARE_LIMIT * latency.p50:
            found.append(
                f"the generator was late: its event loop lagged by {self.lag_ms.p95:.3g} ms (p95), more than a tenth "
                f"of the median {'TTFT' if figures.ttft_ms else 'request latency'} of {latency.p50:.3g} ms; "
                "run it on a machine of its own"
            )
        return tuple(found)


class GeneratorMonitor:
    """Samples the event loop's delay while it is open."""

    def __init__(self) -> None:
        self.lags_ms = Distribution()
        self._began = (time.perf_counter(), time.thread_time(), time.process_time())
        self._sampler = gevent.spawn(self._sample)

    def _sample(self) -> None:
        while True:
            before = time.perf_counter()
            gevent.sleep(_SAMPLE_EVERY_S)
            self.lags_ms.add(max(0.0, time.perf_counter() - before - _SAMPLE_EVERY_S) * 1000)

    def close(self) -> GeneratorLoad:
        """Stop sampling and say what was seen; to be called in the event loop's thread."""
        self._sampler.kill()
        wall, loop, process = self._began
        elapsed = max(time.perf_counter() - wall, 1e-9)
        return GeneratorLoad(
            loop_cpu_share=(time.thread_time() - loop) / elapsed,
            process_cpu_share=(time.process_time() - process) / elapsed,
            lag_ms=self.lags_ms.statistics(),
            cores=available_cores(),
        )
