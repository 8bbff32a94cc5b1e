"""Write the held-out set and the tokenizer: ``python examples/models/prepare.py``."""

import sys
from itertools import islice
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from fathom_examples.chat_tokenizer import IM_END, render_prompt, save_tokenizer, train_tokenizer  # noqa: E402
from fathom_examples.corpus import held_out_samples, training_samples, write_jsonl  # noqa: E402
from fathom_examples.tasks import TASKS  # noqa: E402


def main() -> None:
    """Train the tokenizer on 60,000 samples of all tasks alike and draw the held-out rows; seeds are fixed."""
    samples = islice(training_samples(1, dict.fromkeys(TASKS, 1.0)), 60_000)
    tokenizer = train_tokenizer(f"{render_prompt(s.messages())}{s.answer}{IM_END}\n" for s in samples)
    for size in ("small", "large"):
        save_tokenizer(tokenizer, HERE / size)
    write_jsonl(held_out_samples(), HERE / "held_out.jsonl")
    print(f"vocabulary: {tokenizer.get_vocab_size()} entries")


if __name__ == "__main__":
    main()
