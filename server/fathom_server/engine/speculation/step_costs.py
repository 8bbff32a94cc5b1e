"""What a step costs by how many drafted tokens ride in it, learned while serving."""

from collections import deque
from typing import Final

WINDOW: Final = 15
"""Measurements that count: enough to shrug at hiccups, few enough to follow a machine's phases."""

STALE_STEPS: Final = 400
"""A cost that was not measured for so many steps is forgotten, so that guesses get another chance."""

_FEW: Final = 4
_ASSUMED_SHARE: Final = 0.25
"""Where nothing was measured, a drafted token is taken to cost a quarter of a sequence's share of the step: little
enough to be tried, after which the truth is known."""

_LEAST_SHARE: Final = 0.1
"""Of that, what a token costs at least, whatever noise the measurements have."""


class RecentCost:
    """Lower quartile of the last measurements, of the first few the least.

    What disturbs a measurement only ever adds to it, on a machine shared with others to most of them.
    """

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=WINDOW)
        self.value = 0.0
        self.seen_at = 0

    def observe(self, value: float) -> None:
        """Take in a measurement."""
        self._values.append(value)
        ordered = sorted(self._values)
        self.value = ordered[len(ordered) // _FEW]


class StepCosts:
    """Seconds of a step by its sequences, and of each drafted token beside.

    A straight line, since products and attention grow with a step's tokens; one number a number of sequences is learned
    from few steps, and from any number of drafts.
    """

    def __init__(self) -> None:
        self._plain: dict[int, RecentCost] = {}
        self._each: dict[int, RecentCost] = {}
        self._steps = 0

    def observe(self, sequences: int, drafts: int, seconds: float) -> None:
        """Take in what a step of so many sequences with so many drafted tokens took."""
        self._steps += 1
        plain = self.plain(sequences)
        if drafts == 0:
            self._plain.setdefault(sequences, RecentCost()).observe(seconds)
        elif plain is not None:
            cell = self._each.setdefault(sequences, RecentCost())
            cell.observe((seconds - plain) / drafts)
            cell.seen_at = self._steps

    def plain(self, sequences: int) -> float | None:
        """Seconds of a step without drafts, or None before one was measured."""
        cell = self._plain.get(sequences)
        return None if cell is None else cell.value

    def assumed(self, sequences: int) -> float:
        """Seconds of a drafted token as if none had been measured; a step without must have been."""
        return self._plain[sequences].value * _ASSUMED_SHARE / sequences

    def each(self, sequences: int) -> float:
        """Seconds of a drafted token; a step without must have been measured."""
        assumed, cell = self.assumed(sequences), self._each.get(sequences)
        if cell is not None and self._steps - cell.seen_at > STALE_STEPS:
            del self._each[sequences]
            cell = None
        return assumed if cell is None else max(cell.value, _LEAST_SHARE * assumed)


class PassCosts:
    """Seconds that the draft model takes for one token of so many sequences at once.

    A round's first pass is its own kind: it also computes what the draft model has not seen, often two tokens.
    """

    def __init__(self) -> None:
        self._cells: dict[tuple[bool, int], RecentCost] = {}

    def observe(self, depth: int, sequences: int, seconds: float) -> None:
        """Take in what the pass of a depth (from 0) took."""
        self._cells.setdefault((depth > 0, sequences), RecentCost()).observe(seconds)

    def seconds(self, depth: int, sequences: int) -> float:
        """What a pass may take: as measured, else as for the nearest number of sequences; 0 before any was."""
        cell = self._cells.get((depth > 0, sequences))
        if cell is not None:
            return cell.value
        if not self._cells:
            return 0.0
        return self._cells[min(self._cells, key=lambda key: (key[0] != (depth > 0), abs(key[1] - sequences)))].value
