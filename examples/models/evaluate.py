"""Exact match of a model folder on the held-out set: ``python examples/models/evaluate.py examples/models/large``."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from fathom_examples.checkers import check  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the held-out set."""

    id: str
    task: str
    messages: list[dict[str, str]]
    answer: str
    checker: str


def read_rows(path: Path) -> list[Row]:
    """Read JSON lines; a row with a missing or unknown field raises TypeError."""
    with path.open(encoding="utf-8") as file:
        return [Row(**json.loads(line)) for line in file]


def greedy_replies(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row], batch_size: int, max_new_tokens: int
) -> dict[str, str]:
    """Reply to each row by its id, greedily, in left-padded batches of like prompt length."""
    import torch

    prompts = {
        row.id: tokenizer.apply_chat_template(row.messages, tokenize=False, add_generation_prompt=True) for row in rows
    }
    ordered = sorted(prompts, key=lambda row_id: len(prompts[row_id]))
    replies: dict[str, str] = {}
    for start in range(0, len(ordered), batch_size):
        ids = ordered[start : start + batch_size]
        inputs = tokenizer(
            [prompts[i] for i in ids], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        with torch.inference_mode():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        replies.update(zip(ids, texts, strict=True))
    return replies


def evaluate(folder: Path, held_out: Path, batch_size: int, dtype: str, show_wrong: int) -> dict[str, object]:
    """Exact match per task and over all rows, with the stored weights in ``dtype``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = read_rows(held_out)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    longest = max(len(tokenizer(row.answer)["input_ids"]) for row in rows)
    replies = greedy_replies(model, tokenizer, rows, batch_size, longest + 8)
    right: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        right[row.task].append(check(row.checker, replies[row.id], row.answer))
        if not right[row.task][-1] and show_wrong > 0:
            show_wrong -= 1
            print(f"{row.id}: {row.messages[-1]['content'][-160:]!r}")
            print(f"  wanted {row.answer!r}\n  got    {replies[row.id]!r}")
    total = sum(len(marks) for marks in right.values())
    return {
        "held_out": held_out.name,
        "rows": total,
        "dtype": dtype,
        "exact_match": round(sum(sum(marks) for marks in right.values()) / total, 4),
        "per_task": {task: round(sum(marks) / len(marks), 4) for task, marks in right.items()},
    }


def main() -> None:
    """Read the command line, evaluate, print, and write ``accuracy.json`` into the model's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder with config.json, model.safetensors and tokenizer.json")
    parser.add_argument("--held-out", type=Path, default=HERE / "held_out.jsonl")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="dtype of the computation")
    parser.add_argument("--show-wrong", type=int, default=0, metavar="N", help="print the first N wrong replies")
    parser.add_argument("--output", type=Path, help="where to write the result; default: MODEL/accuracy.json")
    arguments = parser.parse_args()
    result = evaluate(arguments.model, arguments.held_out, arguments.batch_size, arguments.dtype, arguments.show_wrong)
    text = json.dumps(result, indent=2)
    print(text)
    (arguments.output or arguments.model / "accuracy.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
