"""The load test's exceptions, one tree.

LoadTestError
├── ScenarioError      flags that contradict each other or are out of range
├── PromptSetError     a prompt file is missing, empty or malformed; names file and line
├── OutputError        the report's folder cannot be written
├── ReportFileError    a report that should be read is missing, damaged or of another version
├── ComparisonError    two runs that cannot be compared: their workloads differ
└── ServerError        the server or the model cannot be reached, or refuses the run before it starts
"""


class LoadTestError(Exception):
    """Base of everything that the load test raises on purpose."""


class ScenarioError(LoadTestError):
    """Flags contradict each other or are out of range."""


class PromptSetError(LoadTestError):
    """A prompt file is missing, empty or malformed."""


class OutputError(LoadTestError):
    """The report's folder cannot be written."""


class ServerError(LoadTestError):
    """The server or the model cannot be reached, or refuses the run before it starts."""


class ReportFileError(LoadTestError):
    """A report that should be read is missing, damaged or of another version."""


class ComparisonError(LoadTestError):
    """Two runs that cannot be compared: their workloads differ, or no stage is in both."""
