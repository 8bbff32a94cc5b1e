"""What is noted of a request while its answer passes by, whichever of engine and adaptor is first done with it."""

from array import array

import pytest

from fathom_server.backends.fathom.request_outcome import ObservedAnswer, RequestOutcome
from fathom_server.engine.request import Piece, Request
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.errors import DeadlineError, RequestError


class Sink:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[Piece | RequestError] = []

    def on_piece(self, piece: Piece) -> None:
        self.given.append(piece)

    def on_error(self, error: RequestError) -> None:
        self.given.append(error)


PIECES = [
    Piece(0, "a", (1, 2), cached_tokens=3),
    Piece(1, "b", (4,), finish_reason="length"),
    Piece(0, "c", (3,), finish_reason="stop", is_last=True),
]


def request(sink: Sink, **instants: float) -> Request:
    made = Request("r-1", array("i", [1, 2, 3, 4]), SamplingParameters(), 8, sink, created=10.0)
    for name, at in instants.items():
        setattr(made, name, at)
    return made


@pytest.mark.parametrize("begun_first", [True, False])
def test_an_outcome_is_told_once_when_both_sides_are_done(begun_first: bool) -> None:
    """The engine may have answered before the adaptor knows that it took the request."""
    sink, told = Sink(), list[RequestOutcome]()
    answer = ObservedAnswer(sink, "chat", told.append)
    taken = request(sink, admitted=11.0, first_token=12.0)
    steps = [lambda: answer.begun(taken), answer.sent]
    for piece in PIECES:
        answer.on_piece(piece)
    for step in steps if begun_first else reversed(steps):
        assert not told
        step()
    (outcome,) = told
    assert sink.given == PIECES
    assert (outcome.request_id, outcome.model, outcome.error) == ("r-1", "chat", None)
    assert (outcome.input_tokens, outcome.cached_tokens, outcome.output_tokens) == (4, 3, 4)
    assert outcome.finish_reasons == ("length", "stop")


def test_an_error_is_handed_on_and_told() -> None:
    """Its text is in the outcome, and the tokens that had come."""
    sink, told = Sink(), list[RequestOutcome]()
    answer = ObservedAnswer(sink, "chat", told.append)
    answer.begun(request(sink, admitted=11.0))
    error = DeadlineError("too late")
    answer.on_piece(PIECES[0])
    answer.on_error(error)
    answer.sent()
    assert sink.given == [PIECES[0], error]
    assert (told[0].error, told[0].output_tokens, told[0].finish_reasons) == ("too late", 2, ())


def test_an_answer_that_could_not_be_sent_is_no_whole_one() -> None:
    """A transport that breaks ends the request before the engine does."""
    sink, told = Sink(), list[RequestOutcome]()
    answer = ObservedAnswer(sink, "chat", told.append)
    answer.begun(request(sink))
    answer.on_piece(PIECES[0])
    answer.sent()
    assert told[0].error == "the answer could not be sent"
    assert told[0].ended > 0


@pytest.mark.parametrize(
    ("admitted", "first_token", "phases"),
    [
        (11.0, 13.0, [("queue", 10.0, 11.0), ("prefill", 11.0, 13.0), ("decode", 13.0, 20.0)]),
        (11.0, None, [("queue", 10.0, 11.0), ("prefill", 11.0, 20.0)]),
        (None, None, [("queue", 10.0, 20.0)]),
    ],
)
def test_phases_join_and_the_last_ends_with_the_request(
    admitted: float | None, first_token: float | None, phases: list[tuple[str, float, float]]
) -> None:
    """A request that never ran was in the queue to its end, one without a token in prefill."""
    outcome = RequestOutcome("r", "chat", 1, 0, 0, (), None, 10.0, admitted, first_token, 20.0)
    assert list(outcome.phases()) == phases
