"""Slots behind the protocol of blocks: whatever joins, pauses and leaves, each sequence reads its own tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fathom_server.engine.runner.base import Runner, StepRow
from fathom_server.engine.runner.onnx import OnnxRunner
from fathom_server.engine.runner.slots import SlotRunnerAdapter
from fathom_server.engine.settings import EngineSettings

BLOCKS = 4


def load(folder: Path) -> Runner:
    """The runner of a folder's stock graph, with few slots."""
    settings = EngineSettings.load(folder)
    settings = replace(settings, limits=replace(settings.limits, max_batch=BLOCKS))
    return SlotRunnerAdapter(OnnxRunner(folder, settings), settings)


@pytest.mark.parametrize(("form", "tolerance"), [("cpu int8", 0.5), ("cpu fp32", 1e-3), ("portable fp32", 1e-3)])
def test_sequences_keep_their_own_slots(graphs: dict[str, Path], form: str, tolerance: float) -> None:
    """Random steps, rows in any order, some paused, some begun anew: the logits are those of each row alone."""
    runner, alone = load(graphs[form]), load(graphs[form])
    assert runner.geometry == alone.geometry
    assert runner.geometry.blocks == BLOCKS
    assert not runner.geometry.shareable
    random = np.random.default_rng(5)
    history: list[list[int]] = [[] for _ in range(BLOCKS)]
    compared = 0
    for _ in range(40):
        chosen = random.permutation(BLOCKS)[: random.integers(1, BLOCKS + 1)]
        rows = []
        for block in chosen:
            if random.random() < 0.15:
                history[block].clear()
            count = int(random.choice([1, 1, 1, 3, 7]))
            new = [int(token) for token in random.integers(0, 300, count)]
            wanted = int(random.integers(0, count + 1))
            rows.append(StepRow([int(block)], len(history[block]), new, wanted))
            history[block] += new
        found = runner.step(rows)
        assert found.shape == (sum(row.logits for row in rows), EngineSettings.load(graphs[form]).graph.vocabulary)
        at = 0
        for row in rows:
            if row.logits:
                expected = alone.step([StepRow([0], 0, history[row.blocks[0]], row.logits)])
                np.testing.assert_allclose(found[at : at + row.logits], expected, atol=tolerance)
                np.testing.assert_array_equal(found[at : at + row.logits].argmax(axis=1), expected.argmax(axis=1))
                compared += row.logits
            at += row.logits
    assert compared > 50


def test_a_row_without_logits_is_computed_all_the_same(graphs: dict[str, Path]) -> None:
    """A step of which no logits are wanted answers none, and its tokens count afterwards."""
    runner = load(graphs["cpu fp32"])
    assert len(runner.step([StepRow([2], 0, [5, 6, 7, 8], 0), StepRow([1], 0, [9], 0)])) == 0
    together = runner.step([StepRow([1], 1, [4], 1), StepRow([2], 4, [9], 1)]).copy()
    np.testing.assert_allclose(together[0], load(graphs["cpu fp32"]).step([StepRow([0], 0, [9, 4], 1)])[0], atol=1e-3)
    whole = load(graphs["cpu fp32"]).step([StepRow([0], 0, [5, 6, 7, 8, 9], 1)])
    np.testing.assert_allclose(together[1], whole[0], atol=1e-3)
