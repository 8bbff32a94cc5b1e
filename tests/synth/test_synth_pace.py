"""Rate limits, on a clock of their own."""

import asyncio

import pytest

from fathom_synth import pace
from fathom_synth.pace import Pace


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Tell the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds >= 0
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that every pace sees."""
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    monkeypatch.setattr(pace.asyncio, "sleep", made.sleep)
    return made


async def test_requests_come_no_faster_than_their_rate(clock: Clock) -> None:
    """At 10 a second the first second's worth goes at once, and 40 more take four seconds."""
    limited = Pace(10.0)
    for _ in range(10):
        await limited.take()
    assert clock.now == 100.0
    await asyncio.gather(*(limited.take() for _ in range(40)))
    assert clock.now == pytest.approx(104.0)


async def test_a_rate_below_one_lets_the_first_go_at_once(clock: Clock) -> None:
    """One request every ten seconds: the first now, the second after ten."""
    limited = Pace(0.1)
    await limited.take()
    assert clock.now == 100.0
    await limited.take()
    assert clock.now == pytest.approx(110.0)


async def test_what_an_answer_cost_is_waited_for_by_the_next(clock: Clock) -> None:
    """At 100 tokens a second an answer of 1,000 holds the next request up for nine seconds and a bit."""
    limited = Pace(100.0)
    await limited.take(0.0)
    limited.charge(1000)
    await limited.take(0.0)
    assert clock.now == pytest.approx(109.0, abs=0.01)


async def test_without_a_rate_nobody_waits(clock: Clock) -> None:
    """No limit, no waiting, whatever is charged."""
    free = Pace(None)
    free.charge(1e9)
    for _ in range(100):
        await free.take()
    assert clock.now == 100.0
