"""The example model keeps its held-out accuracy through the whole stack, in every precision."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fathom_client import Client, InvalidRequestError

MODELS = Path("examples/models").resolve()
ROWS = [json.loads(line) for line in (MODELS / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def check():
    """The exact-match checkers of the examples."""
    sys.path.insert(0, str(MODELS))
    from fathom_examples.checkers import check

    sys.path.remove(str(MODELS))
    return check


def answers(client: Client, model: str, rows: list[dict], together: int = 16) -> list[str]:
    """Greedy answers to held-out rows, so many asked at a time."""
    with ThreadPoolExecutor(together) as pool:
        return list(pool.map(lambda row: client.chat(model, row["messages"], max_tokens=256).text, rows))


def share_right(check, rows: list[dict], texts: list[str]) -> float:
    """Share of right answers in percent."""
    right = [check(row["checker"], text, row["answer"]) for row, text in zip(rows, texts, strict=True)]
    return 100.0 * sum(right) / len(rows)


@pytest.fixture(scope="module")
def reference(client: Client, check) -> float:
    """What fp32 reaches over the held-out mix."""
    return share_right(check, ROWS, answers(client, "chat", ROWS))


def test_large_reaches_its_accuracy_in_fp32(reference: float) -> None:
    """Over the held-out mix fp32 reaches 90 %."""
    print(f"held-out accuracy through the stack: large fp32 {reference:.1f} %")
    assert reference >= 90.0


@pytest.mark.parametrize(("model", "points"), [("chat_int8", 1.0), ("chat_latency", 2.0), ("chat_adaptive", 2.0)])
def test_large_keeps_its_accuracy_in_every_profile(
    client: Client, check, reference: float, model: str, points: float
) -> None:
    """Sixteen together, int8 stays within one point of fp32, int4 and both by load within two."""
    found = share_right(check, ROWS, answers(client, model, ROWS))
    print(f"held-out accuracy through the stack: {model} {found:.1f} %")
    assert abs(found - reference) <= points


@pytest.mark.parametrize("model", ["chat_int8", "chat_latency"])
def test_an_answer_is_the_same_alone_and_among_sixteen(client: Client, model: str) -> None:
    """In the profiles throughput and latency no company changes an answer."""
    rows = ROWS[::5]
    assert answers(client, model, rows, together=1) == answers(client, model, rows)


def test_a_request_may_choose_its_precision(client: Client) -> None:
    """In the profile adaptive a request that names a precision is answered as the profile of that precision would."""
    for precision, model in (("int8", "chat_int8"), ("int4", "chat_latency")):
        for row in ROWS[::40]:
            own = client.chat(model, row["messages"], max_tokens=64)
            pinned = client.chat("chat_adaptive", row["messages"], max_tokens=64, precision=precision)
            assert pinned.text == own.text
    with pytest.raises(InvalidRequestError, match="precision is 'fp8'"):
        client.chat("chat_adaptive", ROWS[0]["messages"], precision="fp8")


@pytest.mark.parametrize("model", ["small", "small_latency"])
def test_small_is_clearly_below(client: Client, check, model: str) -> None:
    """The small model leaves something to hand over."""
    small = share_right(check, ROWS, answers(client, model, ROWS))
    print(f"held-out accuracy through the stack: {model} {small:.1f} %")
    assert small < 85.0
