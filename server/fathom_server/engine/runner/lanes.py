"""Two precisions of one model as one runner: each row goes to its lane, over blocks of one cache."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fathom_server.engine.runner.base import CacheGeometry, Runner, StepRow


class LaneRunner:
    """Runs each row on the runner of its lane. The runners write into one cache, so they must be of one geometry.

    ``lanes`` are the names of their precisions, in the order of ``StepRow.lane``. Blocks are never shared between
    lanes: that is for whoever hands them out to see to.
    """

    def __init__(self, runners: Sequence[Runner], lanes: Sequence[str]) -> None:
        self._runners = tuple(runners)
        self.lanes = tuple(lanes)
        self.geometry: CacheGeometry = runners[0].geometry

    def step(self, rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
        """See ``Runner.step``."""
        used = sorted({row.lane for row in rows})
        if len(used) == 1:
            return self._runners[used[0]].step(rows)
        ends = np.cumsum([row.logits for row in rows])
        logits: npt.NDArray[np.float32] | None = None
        for lane in used:
            own = [place for place, row in enumerate(rows) if row.lane == lane]
            found = self._runners[lane].step([rows[place] for place in own])
            if logits is None:
                logits = np.empty((int(ends[-1]), found.shape[1]), dtype=np.float32)
            begin = 0
            for place in own:
                count = rows[place].logits
                logits[ends[place] - count : ends[place]] = found[begin : begin + count]
                begin += count
        assert logits is not None  # noqa: S101 (a step has rows)
        return logits
