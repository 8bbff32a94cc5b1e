"""What ``--jsonl`` is made of: lines from chunks, results in order, an answer for every line that can come."""

import itertools
import json
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_client import Client, InvalidArgumentError
from fathom_client._commands import chat, encoders, generate, tokenize
from fathom_client._commands.json_lines import LineForm, answer_line
from fathom_client._commands.pipeline import in_order
from fathom_client._commands.standard_input import split_lines
from fathom_client.testing import MemoryTransport, ScriptedGenerator, ScriptedReranker


@given(st.binary(max_size=60).map(lambda raw: raw.replace(b"a", b"\n")), st.lists(st.integers(0, 60), max_size=8))
def test_lines_do_not_depend_on_how_they_come(raw: bytes, cuts: list[int]) -> None:
    """However the bytes are cut into chunks, the lines are those of the whole, in order."""
    places = [0, *sorted(cuts), len(raw)]
    chunks = [raw[begin:end] for begin, end in itertools.pairwise(places)]
    lines = [line for group in split_lines(chunks) for line in group]
    whole = raw.split(b"\n") if raw else []
    expected = whole[:-1] if whole and not whole[-1] else whole
    assert lines == [line.removesuffix(b"\r") for line in expected]


def test_results_keep_their_order_and_no_more_is_read_than_fits() -> None:
    """Work runs at once, results come in order, and a slow first item holds the reading up after a bounded number."""
    read: list[int] = []
    running: set[int] = set()
    most = 0
    lock, gate = threading.Lock(), threading.Event()

    def items() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    def work(number: int) -> int:
        nonlocal most
        with lock:
            running.add(number)
            most = max(most, len(running))
        if number == 0:
            gate.wait(20)
        with lock:
            running.discard(number)
        return number * number

    results = in_order(items(), work, 3)
    threading.Timer(0.2, gate.set).start()
    assert next(results) == 0
    while len(read) < 12:
        time.sleep(0.01)
    assert len(read) <= 12 + 1 + 3  # the window, one in the reader's hand, and what the first results made room for
    assert list(results) == [number * number for number in range(1, 1000)]
    assert 1 < most <= 3


def test_faults_stand_in_their_place_and_leaving_ends_the_work() -> None:
    """What an item raises comes in its turn, a fault of the source comes last, and leaving starts nothing new."""

    def source() -> Iterator[int]:
        yield from range(3)
        raise InvalidArgumentError("the source is gone")

    def work(number: int) -> int:
        if number == 7:
            raise InvalidArgumentError("seven")
        return number

    results = in_order(source(), work, 2)
    assert [next(results), next(results), next(results)] == [0, 1, 2]
    with pytest.raises(InvalidArgumentError, match="the source is gone"):
        next(results)
    results = in_order(iter(range(100)), work, 2)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(InvalidArgumentError, match="seven"):
        next(results)
    begun: list[int] = []
    left = in_order(iter(range(100)), lambda number: begun.append(number) or time.sleep(0.01), 1)
    next(left)
    left.close()
    count = len(begun)
    time.sleep(0.1)
    assert len(begun) <= count + 1


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def answers(client: Client) -> dict[str, tuple[LineForm, Callable[[dict[str, Any]], dict[str, Any]]]]:
    """How each command answers a line, with its form."""
    flags = {"model": "chat", "truncate": False, "query": None}
    talk = Namespace(model="chat", system="be brief")
    return {
        "generate": (generate.LINE, lambda line: generate.answer_prompt(client, "chat", {}, line)),
        "chat": (chat.LINE, lambda line: chat.answer_messages(client, talk, {}, line)),
        "tokenize": (tokenize.LINE, lambda line: tokenize.answer_prompt(client, {"model": "chat"} | line)),
        "rerank": (encoders.RERANK_LINE, lambda line: {"results": encoders.ranked(client, flags | line)}),
    }


@pytest.mark.parametrize("command", ["generate", "chat", "tokenize", "rerank"])
def test_every_line_has_an_answer(command: str) -> None:
    """Whatever a line says, it gets a result or an error with its number and a message, and both are JSON."""
    models = {"chat": ScriptedGenerator("fine"), "reranker": ScriptedReranker(lambda query, document: 0.5)}
    with Client(transport=MemoryTransport(models)) as client:
        form, answer = answers(client)[command]
        keys = st.sampled_from(["id", *form.subject, *form.options])
        objects = st.dictionaries(keys, JSON_VALUES | st.just("reranker"), max_size=5)
        talks = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": JSON_VALUES}), max_size=2)
        subjects = st.fixed_dictionaries({form.subject[0]: st.text(max_size=8) | talks | JSON_VALUES})
        lines = st.builds(lambda one, other: json.dumps(one | other).encode(), objects, subjects)

        @given(st.binary(max_size=40) | lines)
        def check(raw: bytes) -> None:
            result = json.loads(json.dumps(answer_line(answer, form, 7, raw), default=list))
            assert result["line"] == 7
            assert "error" not in result or result["error"]["message"]

        check()
