"""The exceptions of this distribution, one tree.

SynthError
├── JobError         the job's file, or a key of it, is wrong
├── TemplateError    a template is no Jinja, reaches out, or takes more than it may
├── SeedError        a file of seeds or of held-out texts cannot be read, or no row of it can be used
├── LicenceError     the teacher's licence does not allow the data, or is not known
├── OutputError      the output cannot be written, is in use, or is damaged
└── ServerError      the server stays away, or has no such model
"""


class SynthError(Exception):
    """Base of everything that is raised on purpose."""


class JobError(SynthError):
    """The job's file, or a key of it, is wrong."""


class TemplateError(SynthError):
    """A template is no Jinja, reaches out of its sandbox, or takes more time or memory than it may."""


class SeedError(SynthError):
    """A file of seeds or held-out texts cannot be read, or no row of it can be used."""


class LicenceError(SynthError):
    """The teacher's licence does not allow the data, or is not known."""


class OutputError(SynthError):
    """The output's folder cannot be written, is in use by another run, or holds a damaged file."""


class ServerError(SynthError):
    """The server stays away, refuses every request, or has no such model."""
