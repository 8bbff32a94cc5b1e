"""The outbox: nothing lost, nothing out of order, and no more responses than there may be."""

import threading
from collections.abc import Sequence

import pytest

from fathom_server.backends.fathom.outbox import Outbox, OutgoingAnswer
from fathom_server.engine.request import Piece
from fathom_server.errors import DeadlineError, RequestError

PATIENCE_S = 30


class Wire:
    """Where responses go in a test: it remembers what each carried; a broken one refuses them."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.responses: list[str] = []
        self.errors: list[RequestError] = []
        self.arrived = threading.Semaphore(0)
        self._is_broken = is_broken

    def send(self, pieces: Sequence[Piece]) -> None:
        if self._is_broken:
            raise ConnectionError("nobody is there")
        self.responses.append("".join(piece.text for piece in pieces))
        self.arrived.release()

    def send_whole(self, pieces: Sequence[Piece]) -> None:
        self.send(pieces)

    def fail(self, error: RequestError) -> None:
        self.errors.append(error)
        self.arrived.release()


class Stream:
    """An answer on its way over a wire, and how it ended."""

    def __init__(self, outbox: Outbox, *, whole: bool = False, is_broken: bool = False) -> None:
        self.wire = Wire(is_broken=is_broken)
        self.ended = threading.Event()
        self.broken = threading.Event()
        self.answer = OutgoingAnswer(outbox, self.wire, whole=whole, on_end=self.ended.set, on_broken=self.broken.set)

    def give(self, text: str, *, is_last: bool = False) -> None:
        self.answer.on_piece(Piece(0, text, (), is_last=is_last))


def test_first_and_last_go_at_once_and_the_rest_waits_for_company() -> None:
    """With one response a second for all, fifty tokens between the first and the last ride with the last."""
    outbox = Outbox(responses_per_s=1)
    stream = Stream(outbox)
    stream.give("<")
    assert stream.wire.arrived.acquire(timeout=PATIENCE_S)
    for _ in range(50):
        stream.give("x")
    stream.give(">", is_last=True)
    assert stream.ended.wait(PATIENCE_S)
    outbox.close()
    assert stream.wire.responses == ["<", "x" * 50 + ">"]


def test_what_waits_is_sent_without_being_asked() -> None:
    """A token that nothing follows comes when its turn does."""
    outbox = Outbox(responses_per_s=50)
    streams = [Stream(outbox) for _ in range(5)]
    for stream in streams:
        stream.give("a")
        stream.give("b")
    for stream in streams:
        while "".join(stream.wire.responses) != "ab":
            assert stream.wire.arrived.acquire(timeout=PATIENCE_S)
    outbox.close()


def test_streams_share_the_bound() -> None:
    """Eight streams of hundreds of tokens: every text whole and in order, in far fewer responses than tokens."""
    outbox = Outbox(responses_per_s=200)
    streams = [Stream(outbox) for _ in range(8)]
    tick = threading.Event()
    texts = [[f"{number}.{place} " for place in range(300)] for number in range(len(streams))]
    for place in range(300):
        for stream, text in zip(streams, texts, strict=True):
            stream.give(text[place], is_last=place == 299)
        tick.wait(0.001)
    for stream, text in zip(streams, texts, strict=True):
        assert stream.ended.wait(PATIENCE_S)
        assert "".join(stream.wire.responses) == "".join(text)
        assert len(stream.wire.responses) < len(text) / 3
    outbox.close()


def test_an_error_takes_what_waits_along() -> None:
    """Tokens that were computed before a failure reach the caller before it."""
    outbox = Outbox(responses_per_s=1)
    stream = Stream(outbox)
    stream.give("a")
    assert stream.wire.arrived.acquire(timeout=PATIENCE_S)
    stream.give("b")
    stream.answer.on_error(DeadlineError("late"))
    assert stream.ended.wait(PATIENCE_S)
    outbox.close()
    assert stream.wire.responses == ["a", "b"]
    assert [str(error) for error in stream.wire.errors] == ["late"]


def test_closing_sends_what_waits() -> None:
    """Nothing stays behind."""
    outbox = Outbox(responses_per_s=1)
    stream = Stream(outbox)
    for text in "abc":
        stream.give(text)
    outbox.close()
    assert "".join(stream.wire.responses) == "abc"


@pytest.mark.parametrize("responses_per_s", [0, 1])
def test_a_whole_answer_is_one_response(responses_per_s: int) -> None:
    """Without streaming there is one response, at the end, whatever the bound."""
    outbox = Outbox(responses_per_s)
    stream = Stream(outbox, whole=True)
    for text in "abc":
        stream.give(text)
    stream.give("d", is_last=True)
    assert stream.ended.wait(PATIENCE_S)
    outbox.close()
    assert stream.wire.responses == ["abcd"]


def test_a_broken_wire_breaks_its_own_answer_alone() -> None:
    """What cannot be sent is given up, told once, and others go on at their own pace."""
    outbox = Outbox(responses_per_s=100)
    broken, whole = Stream(outbox, is_broken=True), Stream(outbox)
    for stream in (broken, whole):
        stream.give("a")
    assert broken.broken.wait(PATIENCE_S)
    for stream in (broken, whole):
        stream.give("b", is_last=True)
    assert whole.ended.wait(PATIENCE_S)
    outbox.close()
    assert "".join(whole.wire.responses) == "ab"
    assert not broken.wire.responses
