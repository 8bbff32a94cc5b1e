"""TensorRT's callbacks: what it logs and reports as errors is kept whole, how far it is goes to the display."""

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

logger: Final = logging.getLogger("fathom.tensorrt")


class BuildMessages:
    """Errors of the builder and the parser in the order in which they came, and whether the build is to stop.

    TensorRT calls from threads of its own. ``on_progress`` gets a phase's name, the steps done and their number.
    """

    def __init__(self, trt: Any, on_progress: Callable[[str, int, int], None]) -> None:
        self._lock = threading.Lock()
        self._errors: list[str] = []
        self._on_progress = on_progress
        self._stopping = threading.Event()
        # TensorRT holds no references to these: they live as long as this object
        self.logger = _new_logger(trt, self)
        self.recorder = _new_recorder(trt, self)
        self.monitor = _new_monitor(trt, self)

    @property
    def stopping(self) -> bool:
        """Whether the build was asked to end."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Have TensorRT end the build at its next step."""
        self._stopping.set()

    def add_error(self, text: str) -> None:
        """Keep an error; one that came by another way already is not repeated."""
        with self._lock:
            if not any(text in known for known in self._errors):
                self._errors.append(text)

    def progress(self, phase: str, done: int, total: int) -> None:
        """A step of an outermost phase is done."""
        self._on_progress(phase, done, total)

    def text(self) -> str:
        """All errors, whole, one a line."""
        with self._lock:
            return "".join(f"\n  {error}" for error in self._errors) or " (TensorRT gave no reason)"


def _new_logger(trt: Any, messages: BuildMessages) -> Any:
    severity_of = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Errors are kept, warnings and the rest go to Python's log."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (severity_of.INTERNAL_ERROR, severity_of.ERROR):
                messages.add_error(msg)
            elif severity == severity_of.WARNING:
                logger.warning("%s", msg)
            else:
                logger.debug("%s", msg)

    return Logger()


def _new_recorder(trt: Any, messages: BuildMessages) -> Any:
    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]
        """Errors with their codes."""

        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self._errors: list[tuple[Any, str]] = []

        def num_errors(self) -> int:
            return len(self._errors)

        def get_error_code(self, arg0: int) -> Any:
            return self._errors[arg0][0]

        def get_error_desc(self, arg0: int) -> str:
            return self._errors[arg0][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self._errors.clear()

        def report_error(self, arg0: Any, arg1: str) -> bool:
            self._errors.append((arg0, arg1))
            messages.add_error(f"{arg0.name}: {arg1}")
            return False

    return Recorder()


def _new_monitor(trt: Any, messages: BuildMessages) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Outermost phases are shown; every step asks whether to go on."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps
                messages.progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                messages.progress(phase_name, step + 1, self._steps[phase_name])
            return not messages.stopping

        def phase_finish(self, phase_name: str) -> None:
            total = self._steps.pop(phase_name, None)
            if total is not None:
                messages.progress(phase_name, total, total)

    return Monitor()
