"""The export's exceptions, one tree.

ExportError
├── CheckpointError               the source is not a usable checkpoint
├── UnsupportedArchitectureError  the model is of a kind that no builder here can write
├── InvalidPrecisionError         the precision and the target do not go together
└── InvalidContextError           the context length does not suit the model
"""


class ExportError(Exception):
    """Base of everything that the export raises on purpose."""


class CheckpointError(ExportError):
    """The source is not a usable checkpoint: a file is missing, broken or contradicts another."""


class UnsupportedArchitectureError(ExportError):
    """The model is of a kind that no builder here can write."""


class InvalidPrecisionError(ExportError):
    """The precision and the target do not go together."""


class InvalidContextError(ExportError):
    """The context length does not suit the model."""
