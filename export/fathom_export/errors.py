"""The export's exceptions, one tree.

ExportError
├── CheckpointError               the source is not a usable checkpoint
├── UnsupportedArchitectureError  the model is of a kind that no builder here can write
├── InvalidPrecisionError         the precision and the target do not go together
├── InvalidContextError           the context length does not suit the model
├── SpecError                     bundle.toml or a flag is wrong
├── SourceError                   the source cannot be found or fetched
├── MissingExtraError             a package is not installed that this export needs
├── ParityError                   the exported graph does not do what the source model does
├── QualityError                  the export is measurably worse than its thresholds allow
├── FitError                      what fathom-fit was asked cannot be answered, or does not fit
├── CalibrationError              a cascade cannot be measured: its server or a model does not answer
├── PlanError                     a TensorRT plan cannot be built from this graph, here
└── RepositoryError               the model repository cannot be written
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


class SpecError(ExportError):
    """``bundle.toml`` or a flag is wrong; the message gives file, key and remedy."""


class SourceError(ExportError):
    """The source cannot be found or fetched."""


class MissingExtraError(ExportError):
    """A package is not installed that this export needs."""


class ParityError(ExportError):
    """The exported graph does not do what the source model does."""


class QualityError(ExportError):
    """The export is measurably worse than its thresholds allow; the message lists the figures."""


class RepositoryError(ExportError):
    """The model repository cannot be written."""


class PlanError(ExportError):
    """A TensorRT plan cannot be built from this graph, with this TensorRT, on this GPU."""


class FitError(ExportError):
    """What ``fathom-fit`` was asked cannot be answered, or a model does not fit into the memory that there is."""


class CalibrationError(ExportError):
    """A cascade cannot be measured: its server does not start, or one of its models does not answer."""
