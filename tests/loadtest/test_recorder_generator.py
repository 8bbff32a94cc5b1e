"""The generator says when it, and not the server, was the limit."""

import subprocess
import sys
from dataclasses import asdict

import msgpack
import pytest

from fathom_loadtest.environment import available_cores
from fathom_loadtest.generator import GeneratorLoad
from fathom_loadtest.metrics import Distribution, StageFigures, stage_figures
from fathom_loadtest.record import RequestRecord
from fathom_loadtest.workers.wire import load_message, read_load

MS = 1_000_000


def figures(ttft_ms: int) -> StageFigures:
    """A stage of one request of this TTFT."""
    times = (ttft_ms * MS, 2 * ttft_ms * MS)
    return stage_figures([RequestRecord(0, 0, 0, times[-1], times, (1, 1), 3, 2, "length")])


def lags(*values_ms: float) -> Distribution:
    """So late the event loop was."""
    distribution = Distribution()
    distribution.extend(values_ms)
    return distribution


@pytest.mark.parametrize(
    ("load", "complaint"),
    [
        (GeneratorLoad(0.85, 0.9, None, cores=4.0), "its event loop used 85% of a core"),
        (GeneratorLoad(0.58, 0.98, None, cores=1.0), "it used 0.98 of the 1 cores that it has"),
        (GeneratorLoad(0.3, 0.47, None, cores=0.5), "it used 0.47 of the 0.5 cores that it has"),
        (GeneratorLoad(0.1, 0.1, lags(1, 9, 9).statistics(), cores=2.0), "its event loop lagged by 9 ms (p95)"),
    ],
)
def test_a_generator_at_its_limit_warns(load: GeneratorLoad, complaint: str) -> None:
    """A busy event loop, a process that has used up its cores, and a late loop are each named."""
    (warning,) = load.warnings(figures(50))
    assert complaint in warning


def test_a_generator_with_room_to_spare_is_silent() -> None:
    """Neither a lag that is small beside the latency nor a share of many cores is a reason."""
    load = GeneratorLoad(0.58, 0.98, lags(1, 4, 4).statistics(), cores=2.0)
    assert load.warnings(figures(50)) == ()


def test_the_load_of_workers_is_that_of_the_busiest() -> None:
    """Shares are of the one nearest to its limit, lags of all; all of it survives the way through a message."""
    loads = [
        (GeneratorLoad(0.2, 0.9, None, cores=4.0), lags(1, 2)),
        (GeneratorLoad(0.4, 0.5, None, cores=0.5), lags(3, 4)),
    ]
    travelled = [read_load(msgpack.loads(msgpack.dumps(load_message(*each)))) for each in loads]
    joined = GeneratorLoad.of_workers(travelled)
    expected = GeneratorLoad(0.4, 0.5, lags(1, 2, 3, 4).statistics(), workers=2, cores=0.5)
    assert asdict(joined) == asdict(expected)
    assert GeneratorLoad.of_workers([]).workers == 0


def test_cores_are_those_that_the_process_may_use() -> None:
    """A process that is held to one core has one."""
    assert 0 < available_cores() <= 4096
    held = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    asked = "from fathom_loadtest.environment import available_cores; print(available_cores() <= 1)"
    done = subprocess.run([sys.executable, "-c", f"{held}; {asked}"], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
