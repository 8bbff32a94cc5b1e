"""What is asked: questions that the example models can answer, and how their answers are chosen."""

import json
from dataclasses import dataclass
from typing import Final

from benchmarks.speculation.repository import EXAMPLES

from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.text.tokenizer import TextTokenizer

WORKLOADS: Final = ("held_out", "sampled", "asked_again", "long")
LONG_TOKENS: Final = 96


@dataclass(frozen=True, slots=True)
class Job:
    """One request, and how its answer is chosen."""

    prompt_ids: list[int]
    sampling: SamplingParameters


def jobs(workload: str, questions: int) -> list[Job]:
    """A workload: ``questions`` of each of the seven tasks, the same for every method and model."""
    tokenizer = TextTokenizer.load(EXAMPLES / "large")
    rows = [json.loads(line) for line in (EXAMPLES / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]
    tasks = sorted({row["task"] for row in rows})
    chosen = [row for task in tasks for row in [one for one in rows if one["task"] == task][:questions]]
    made = []
    for seed, row in enumerate(chosen):
        messages, sampling = row["messages"], SamplingParameters(max_tokens=64)
        if workload == "sampled":
            sampling = SamplingParameters(max_tokens=64, temperature=0.8, top_p=0.9, seed=seed)
        elif workload == "long":
            sampling = SamplingParameters(max_tokens=LONG_TOKENS, ignore_eos=True)
        elif workload == "asked_again":
            messages = [*messages, {"role": "assistant", "content": row["answer"]}, messages[-1]]
        made.append(Job(tokenizer.encode_messages(messages), sampling))
    return made[::questions] if workload == "long" else made
