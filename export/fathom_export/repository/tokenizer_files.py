"""The files of a tokenizer model: the checkpoint's own, and the code that must run where ``fathom_server`` is not."""

import shutil
from importlib import resources
from pathlib import Path
from typing import Final

from fathom_export.sources.folder import tokenizer_files

GENERATE_ADAPTOR: Final = "generate_model.py"
ENCODER_ADAPTOR: Final = "encoder_model.py"

_MODEL_FILE: Final = "model.py"
_TEXT_FILE: Final = "fathom_text.py"
_BACKLOG_FILE: Final = "fathom_backlog.py"


def copy_tokenizer(source: Path, version: Path) -> None:
    """Copy a checkpoint's tokenizer and chat template."""
    for path in tokenizer_files(source):
        shutil.copyfile(path, version / path.name)


def write_tokenizer_model(source: Path, version: Path, adaptor: str) -> None:
    """Write a tokenizer model's version folder, which must exist."""
    copy_tokenizer(source, version)
    adaptors = resources.files("fathom_server.backends.tokenizer")
    (version / _MODEL_FILE).write_bytes((adaptors / adaptor).read_bytes())
    if adaptor == ENCODER_ADAPTOR:
        (version / _BACKLOG_FILE).write_bytes((adaptors / "encoder_backlog.py").read_bytes())
    (version / _TEXT_FILE).write_bytes((resources.files("fathom_server.text") / "tokenizer.py").read_bytes())
