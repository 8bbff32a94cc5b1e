"""What a step costs by how many drafted tokens ride in it, learned while serving."""

from bisect import insort
from collections import deque
from collections.abc import Iterable
from typing import Final

WINDOW: Final = 9
"""Measurements that count: enough for a median that shrugs at hiccups, few enough to follow a machine's phases."""

_FEW: Final = 3
_FIRST_SHARE: Final = 0.25
"""Where nothing was measured, a drafted token is taken to cost a quarter of a sequence's share of the step: little
enough to be tried, after which the truth is known."""

_LEAST_SHARE: Final = 0.1
"""Of that, what a token costs at least, whatever noise the measurements have."""


class RecentMedian:
    """Median of the last measurements; of the first few the least, since a hiccup only ever adds."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=WINDOW)
        self.value = 0.0

    def observe(self, value: float) -> None:
        """Take in a measurement."""
        self._values.append(value)
        ordered = sorted(self._values)
        self.value = ordered[0] if len(ordered) < _FEW else ordered[len(ordered) // 2]


class StepCosts:
    """Seconds of a step by its sequences and by the drafted tokens in it.

    Between measured numbers of drafts the cost is interpolated; beyond them each further token costs what the last ones
    cost, and no more than is assumed where nothing was measured. So what might pay is tried, and its true cost decides
    from then on.
    """

    def __init__(self) -> None:
        self._plain: dict[int, RecentMedian] = {}
        self._drafted: dict[int, dict[int, RecentMedian]] = {}
        self._measured: dict[int, list[int]] = {}  # by sequences, the numbers of drafts with a measurement, ascending

    def observe(self, sequences: int, drafts: int, seconds: float) -> None:
        """Take in what a step of so many sequences with so many drafted tokens took."""
        if drafts == 0:
            self._plain.setdefault(sequences, RecentMedian()).observe(seconds)
            return
        cells = self._drafted.setdefault(sequences, {})
        if drafts not in cells:
            cells[drafts] = RecentMedian()
            insort(self._measured.setdefault(sequences, []), drafts)
        cells[drafts].observe(seconds)

    def plain(self, sequences: int) -> float | None:
        """Seconds of a step without drafts, or None before one was measured."""
        cell = self._plain.get(sequences)
        return None if cell is None else cell.value

    def assumed(self, sequences: int, drafts: int) -> list[float]:
        """Seconds of steps with 0 … ``drafts`` drafted tokens, as if none with drafts had been measured."""
        plain = self._plain[sequences].value
        return [plain * (1.0 + count * _FIRST_SHARE / sequences) for count in range(drafts + 1)]

    def expected(self, sequences: int, drafts: int) -> list[float]:
        """Seconds of steps with 0 … ``drafts`` drafted tokens. A step without drafts must have been measured."""
        plain = self._plain[sequences].value
        assumed = plain * _FIRST_SHARE / sequences
        slope, seconds = assumed, [plain]
        for end, value in self._points(sequences):
            begin, before = len(seconds) - 1, seconds[-1]
            slope = (value - before) / (end - begin)
            seconds.extend(before + slope * (at - begin) for at in range(begin + 1, end + 1))
            if end >= drafts:
                return seconds[: drafts + 1]
        last = len(seconds) - 1
        slope = min(assumed, max(slope, _LEAST_SHARE * assumed))
        seconds.extend(seconds[last] + slope * (count - last) for count in range(last + 1, drafts + 1))
        return seconds

    def _points(self, sequences: int) -> Iterable[tuple[int, float]]:
        for drafts in self._measured.get(sequences, ()):
            yield drafts, self._drafted[sequences][drafts].value


class PassCosts:
    """Seconds that the draft model takes for one token of so many sequences at once.

    A round's first pass is its own kind: it also computes what the draft model has not seen, often two tokens.
    """

    def __init__(self) -> None:
        self._cells: dict[tuple[bool, int], RecentMedian] = {}

    def observe(self, depth: int, sequences: int, seconds: float) -> None:
        """Take in what the pass of a depth (from 0) took."""
        self._cells.setdefault((depth > 0, sequences), RecentMedian()).observe(seconds)

    def seconds(self, depth: int, sequences: int) -> float:
        """What a pass may take: as measured, else as for the nearest number of sequences; 0 before any was."""
        cell = self._cells.get((depth > 0, sequences))
        if cell is not None:
            return cell.value
        if not self._cells:
            return 0.0
        return self._cells[min(self._cells, key=lambda key: (key[0] != (depth > 0), abs(key[1] - sequences)))].value
