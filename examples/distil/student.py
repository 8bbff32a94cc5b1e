"""The student: ``small``, trained on from where it stands with the training code of the example models.

python -m examples.distil.student ROWS.jsonl FOLDER --steps 450
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

MODELS = Path(__file__).resolve().parents[1] / "models"
sys.path.insert(0, str(MODELS))

from fathom_examples.architecture import SIZES, export_model  # noqa: E402
from fathom_examples.batches import training_steps  # noqa: E402
from fathom_examples.tasks import Sample  # noqa: E402
from train import accumulate, apply, learning_rate_factor, optimizers  # noqa: E402

SIZE = "small"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def read_samples(path: Path) -> list[Sample]:
    """The conversations of a file of rows; the last turn is what is learned."""
    samples = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            *before, user, answer = row["messages"]
            system = before[0]["content"] if before else None
            samples.append(Sample("distil", row["id"], user["content"], answer["content"], system=system))
    return samples


def endless(samples: list[Sample], seed: int) -> Iterator[Sample]:
    """The samples in a seeded order, shuffled anew each time all were used."""
    rng = Random(f"order {seed}")
    while True:
        yield from rng.sample(samples, len(samples))


def train_student(rows: Path, folder: Path, steps: int, step_tokens: int, learning_rate: float, seed: int) -> None:
    """Train ``small`` on rows for a number of steps, on one thread, and write it as a checkpoint into ``folder``."""
    import torch
    from tokenizers import Tokenizer
    from transformers import Qwen3ForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = Tokenizer.from_file(str(MODELS / SIZE / "tokenizer.json"))
    model = Qwen3ForCausalLM.from_pretrained(MODELS / SIZE, dtype=torch.float32).train()
    opts = optimizers(model, learning_rate)
    samples = read_samples(rows)
    data = training_steps(tokenizer, seed, step_tokens, 0.0, endless(samples, seed))
    seen = 0
    for step in range(steps):
        micro_batches = next(data)
        loss = accumulate(model, micro_batches)
        apply(model, opts, learning_rate * learning_rate_factor(step / steps))
        seen += sum(int((batch.weights > 0).sum()) for batch in micro_batches)
        if (step + 1) % 20 == 0:
            print(f"{rows.stem}: step {step + 1} of {steps}, loss {loss:.4f}", flush=True)
    training = {"steps": steps, "step_tokens": step_tokens, "rows": len(samples), "answer_tokens": seen}
    export_model(SIZES[SIZE], model.state_dict(), folder, training)
    for name in TOKENIZER_FILES:
        shutil.copyfile(MODELS / SIZE / name, folder / name)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m examples.distil.student", description=__doc__)
    parser.add_argument("rows", type=Path, help="JSON lines with messages, as fathom-synth writes them")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--step-tokens", type=int, default=5_000)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    train_student(given.rows, given.folder, given.steps, given.step_tokens, given.learning_rate, given.seed)


if __name__ == "__main__":
    main()
