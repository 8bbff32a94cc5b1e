"""Waiting for a server: how often to ask, when to give up, and what to say then."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from fathom_client._results import ModelInfo, Readiness
from fathom_client._timeouts import check_seconds
from fathom_client.errors import DeadlineExceededError, FathomError, ServerUnavailableError

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0


def is_unreachable(error: FathomError) -> bool:
    """Whether an error means that no server answers, rather than that one refuses."""
    return isinstance(error, ServerUnavailableError | DeadlineExceededError)


def _state(model: ModelInfo) -> str:
    reason = f" ({' '.join(model.reason.split())})" if model.reason else ""
    return f"{model.name} is {model.state or 'not loaded'}{reason}"


class ReadinessWait:
    """One ``wait_until_ready``: its deadline, growing pauses, and whom it tells."""

    def __init__(
        self, url: str, timeout_s: float, model: str | None, progress: Callable[[Readiness], object] | None
    ) -> None:
        check_seconds("timeout_s", timeout_s)
        self._url = url
        self._timeout_s = timeout_s
        self._model = model
        self._progress = progress
        self._begin_s = time.monotonic()
        self._deadline_s = self._begin_s + timeout_s
        self._pause_s = _FIRST_PAUSE_S

    def pause(self) -> float | None:
        """Return the seconds to sleep before the next question, None when the time is up."""
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            return None
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return min(pause_s, left_s)

    def ready(self, models: Sequence[ModelInfo]) -> None:
        """Tell that the waiting is over."""
        self._tell(models, None)

    def unreachable(self, error: FathomError) -> DeadlineExceededError:
        """The error for a server that did not answer to the end."""
        return self._error((), str(error))

    def not_ready(self, models: Sequence[ModelInfo]) -> DeadlineExceededError:
        """The error for a server that answers and is not ready."""
        if self._model is not None and all(each.name != self._model for each in models):
            names = ", ".join(sorted({each.name for each in models})) or "none"
            return self._error(models, f"the server at {self._url} has no model {self._model!r}; it has: {names}")
        states = [_state(each) for each in models if not each.is_ready and self._model in (None, each.name)]
        what = ", ".join(states) or "does not report ready"
        return self._error(models, f"the server at {self._url} is up, but {what}")

    def _error(self, models: Sequence[ModelInfo], what: str) -> DeadlineExceededError:
        self._tell(models, what)
        return DeadlineExceededError(
            f"not ready after {self._timeout_s:g} s: {what}", code="DEADLINE_EXCEEDED", model=self._model
        )

    def _tell(self, models: Sequence[ModelInfo], reason: str | None) -> None:
        if self._progress is not None:
            self._progress(Readiness(time.monotonic() - self._begin_s, tuple(models), reason))
