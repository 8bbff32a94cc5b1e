"""An answer ends before its first stop string and never shows a part of one."""

from hypothesis import given
from hypothesis import strategies as st

from fathom_server.text.stop_strings import StopStringFilter


def _shown(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    held = StopStringFilter(stops)
    text = "".join(held.push(piece) for piece in pieces)
    return text + held.flush(), held.stopped


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.text("abc", max_size=5), max_size=8),
)
def test_every_split_gives_the_same_text(stops: list[str], pieces: list[str]) -> None:
    """However the text is cut into pieces, what is shown holds no stop string and is a beginning of the text."""
    text, stopped = _shown(stops, pieces)
    whole = "".join(pieces)
    assert whole.startswith(text)
    assert not any(stop in text for stop in stops)
    assert stopped == any(stop in whole for stop in stops)
    assert stopped or text == whole


def test_beginning_of_a_stop_string_is_held_back() -> None:
    """A piece that may begin a stop string is not shown before it is certain."""
    held = StopStringFilter(["\n\nUser:"])
    assert held.push("Fine.\n\nUs") == "Fine."
    assert held.push("e it") == "\n\nUse it"
    assert not held.stopped


def test_nothing_is_shown_after_a_stop() -> None:
    """Text behind a stop string is dropped, in the same piece and later."""
    held = StopStringFilter(["END"])
    assert held.push("oneENDtwo") == "one"
    assert held.push("three") == ""
    assert held.flush() == ""
    assert held.stopped
