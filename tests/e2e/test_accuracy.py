"""The example model keeps its held-out accuracy through the whole stack, in every precision."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fathom_client import Client

MODELS = Path("examples/models").resolve()
ROWS = [json.loads(line) for line in (MODELS / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def check():
    """The exact-match checkers of the examples."""
    sys.path.insert(0, str(MODELS))
    from fathom_examples.checkers import check

    sys.path.remove(str(MODELS))
    return check


def accuracy(client: Client, model: str, check) -> float:
    """Share of held-out rows whose greedy answer is right, in percent; 16 requests at a time."""

    def is_right(row: dict) -> bool:
        answer = client.chat(model, row["messages"], max_tokens=256)
        return check(row["checker"], answer.text, row["answer"])

    with ThreadPoolExecutor(16) as pool:
        return 100.0 * sum(pool.map(is_right, ROWS)) / len(ROWS)


def test_large_keeps_its_accuracy_in_fp32_and_int8(client: Client, check) -> None:
    """Over the held-out mix fp32 reaches 90 %, and int8 stays within one point of it."""
    fp32 = accuracy(client, "chat", check)
    int8 = accuracy(client, "chat_int8", check)
    print(f"held-out accuracy through the stack: fp32 {fp32:.1f} %, int8 {int8:.1f} %")
    assert fp32 >= 90.0
    assert abs(int8 - fp32) <= 1.0


def test_small_is_clearly_below(client: Client, check) -> None:
    """The small model leaves something to hand over."""
    small = accuracy(client, "small", check)
    print(f"held-out accuracy through the stack: small fp32 {small:.1f} %")
    assert small < 85.0
