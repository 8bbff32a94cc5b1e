"""The engine that is asked: what a caller must know of it, and what it raises."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy.typing as npt

Tensors = Mapping[str, npt.NDArray[Any]]


class UpstreamError(Exception):
    """The model behind refused or failed; ``is_unavailable`` where another server might do."""

    def __init__(self, message: str, *, is_unavailable: bool = False) -> None:
        super().__init__(message)
        self.is_unavailable = is_unavailable


class UpstreamAnswer(Protocol):
    """The responses to one request, in order; to be iterated to the end, which raises UpstreamError for a failure."""

    def __iter__(self) -> Iterator[Tensors]:
        """Output tensors of each response by name."""
        ...

    def cancel(self) -> None:
        """Ask the model to stop, from any thread; what it has sent already still comes."""
        ...


class Upstream(Protocol):
    """A Triton model that streams; asked from many threads at once."""

    def ask(self, request_id: str, inputs: Tensors) -> UpstreamAnswer:
        """Send a request; returns when the first response is there. Raises UpstreamError."""
        ...

    def close(self) -> None:
        """Give up what ended answers hold."""
        ...
