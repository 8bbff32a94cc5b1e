"""The mix of tasks: sampling from a seed, and the split into training and held-out content."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

from fathom_examples.drills import DRILLS
from fathom_examples.tasks import TASKS, Sample

# Shares of samples in training; tasks that are learned late get more.
TRAINING_SHARES = {
    "arithmetic": 0.20,
    "sorting": 0.13,
    "lookup": 0.20,
    "copying": 0.05,
    "counting": 0.12,
    "dates": 0.03,
    "json": 0.03,
    "repetition": 0.10,
    "pairs": 0.14,
}
SYSTEM_PROMPTS = ("You are a helpful assistant.", "Answer briefly.", "You are Fathom, a small language model.")
HELD_OUT_PER_TASK = 143


def is_held_out(sample: Sample) -> bool:
    """Whether a hash of the sample's content falls in the twentieth that is never trained on."""
    digest = hashlib.blake2b(f"{sample.task}\0{sample.key}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % 20 == 0


def draw(rng: Random, task: str, *, held_out: bool) -> Sample:
    """Draw until the content is on the wanted side of the split; one sample in five has a system turn."""
    makers = {**TASKS, **DRILLS}
    while True:
        sample = makers[task](rng)
        if is_held_out(sample) == held_out:
            return replace(sample, system=rng.choice(SYSTEM_PROMPTS)) if rng.random() < 0.2 else sample


def training_samples(seed: int, shares: Mapping[str, float] = TRAINING_SHARES) -> Iterator[Sample]:
    """An endless stream of training samples, the same for the same seed and shares."""
    rng = Random(f"training {seed}")
    while True:
        yield draw(rng, rng.choices(list(shares), list(shares.values()))[0], held_out=False)


def held_out_samples(seed: int = 0, per_task: int = HELD_OUT_PER_TASK) -> list[Sample]:
    """``per_task`` samples of each task with distinct prompts, all from held-out content."""
    rng = Random(f"held out {seed}")
    samples: list[Sample] = []
    for task in TASKS:
        prompts: dict[str, Sample] = {}
        while len(prompts) < per_task:
            sample = draw(rng, task, held_out=True)
            prompts.setdefault(sample.user, replace(sample, follow_ups=()))
        samples.extend(prompts.values())
    return samples


def write_jsonl(samples: list[Sample], path: Path) -> None:
    """Write one row a sample: id, task, messages, answer, checker."""
    with path.open("w", encoding="utf-8") as file:
        for index, sample in enumerate(samples):
            row = {
                "id": f"{sample.task}-{index:04}",
                "task": sample.task,
                "messages": sample.messages(),
                "answer": sample.answer,
                "checker": sample.checker,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
