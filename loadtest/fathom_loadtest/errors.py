"""The load test's exceptions, one tree.

LoadTestError
├── ScenarioError      a key of the scenario, in its file or as a flag, is wrong; names it, its value and the remedy
├── PromptSetError     a prompt file is missing, empty or malformed; names file and line
├── TraceError         a recorded trace is missing, empty or malformed; names file and line
├── OutputError        the report's folder cannot be written
├── ReportFileError    a report that should be read is missing, damaged or of another version
├── ComparisonError    two runs that cannot be compared: their workloads differ
├── TwinError          the twin's settings are wrong, or it cannot be started
│   └── RefusedRequest     the twin refuses one request, by a gRPC code
├── MetricsError       the server's metrics cannot be read; a run goes on without them, and says so
├── WorkerError        a worker process cannot be started, or is of another version
└── ServerError        the server or the model cannot be reached, or refuses the run before it starts
"""


class LoadTestError(Exception):
    """Base of everything that the load test raises on purpose."""


class ScenarioError(LoadTestError):
    """A key of the scenario, in its file or as a flag, is wrong.

    ``key`` is its path (``load.rates[1]``), and ``complaint`` what follows the key in the message; the key is empty
    where the fault is no single key's.
    """

    def __init__(self, complaint: str, key: str = "") -> None:
        super().__init__(f"{key} {complaint}" if key else complaint)
        self.complaint = complaint
        self.key = key

    def under(self, table: str) -> "ScenarioError":
        """Give the same fault, seen from the table that holds this one."""
        return ScenarioError(self.complaint, f"{table}.{self.key}" if self.key else table)


class PromptSetError(LoadTestError):
    """A prompt file is missing, empty or malformed."""


class TraceError(LoadTestError):
    """A recorded trace is missing, empty or malformed."""


class OutputError(LoadTestError):
    """The report's folder cannot be written."""


class ServerError(LoadTestError):
    """The server or the model cannot be reached, or refuses the run before it starts."""


class MetricsError(LoadTestError):
    """The server's metrics cannot be read."""


class WorkerError(LoadTestError):
    """A worker process cannot be started, or is of another version."""


class ReportFileError(LoadTestError):
    """A report that should be read is missing, damaged or of another version."""


class ComparisonError(LoadTestError):
    """Two runs that cannot be compared: their workloads differ, or no stage is in both."""


class TwinError(LoadTestError):
    """The twin's settings are wrong, or it cannot be started."""


class RefusedRequest(TwinError):  # noqa: N818 - nothing is wrong with the twin
    """The twin refuses one request; ``code`` is the gRPC code's name."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
