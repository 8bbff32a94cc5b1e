"""The seeds: questions of the training side of the split, with true answers that no prompt and no student sees."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

MODELS = Path(__file__).resolve().parents[1] / "models"
sys.path.insert(0, str(MODELS))

from fathom_examples.corpus import draw  # noqa: E402

SHARES = {
    "arithmetic": 0.28,
    "sorting": 0.20,
    "counting": 0.10,
    "dates": 0.12,
    "lookup": 0.08,
    "copying": 0.12,
    "json": 0.10,
}
"""What the small model is weak in comes more often, and some of everything that it should keep."""


def write_questions(folder: Path, count: int, seed: int = 0) -> None:
    """Write ``questions.jsonl`` and ``objects.jsonl`` (those that are answered in JSON), the same for the same seed.

    A row has ``task``, ``question`` and ``system`` for the template, ``answer`` and ``checker`` for the report alone.
    """
    rng = Random(f"distil {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "questions.jsonl").open("w") as questions, (folder / "objects.jsonl").open("w") as objects:
        for _ in range(count):
            task = rng.choices(list(SHARES), list(SHARES.values()))[0]
            sample = draw(rng, task, held_out=False)
            row = {
                "task": sample.task,
                "question": sample.user,
                "system": sample.system,
                "answer": sample.answer,
                "checker": sample.checker,
            }
            (objects if sample.checker == "json" else questions).write(json.dumps(row) + "\n")
