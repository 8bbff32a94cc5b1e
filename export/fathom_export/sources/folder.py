"""A checkpoint's folder: whether it is one, and which of its files are read."""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any, Final

from fathom_export.errors import SourceError
from fathom_server.text.tokenizer import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

CONFIG_FILE: Final = "config.json"
READ_PATTERNS: Final = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""Files of a checkpoint that are ever fetched or read: data, never pickles, never code."""

WEIGHTS_PATTERN: Final = "*.safetensors"

MAX_JSON_BYTES: Final = 64 << 20
"""Larger files are refused unread; the index of a checkpoint of a trillion parameters takes a tenth of this."""

_HASH_BLOCK_BYTES: Final = 1 << 20


def check_model_folder(folder: Path) -> None:
    """Raise SourceError unless the folder holds a readable config.json and a tokenizer.json."""
    if not (folder / CONFIG_FILE).is_file():
        raise SourceError(f"{folder} is not a model: it has no {CONFIG_FILE}; name a folder that save_pretrained wrote")
    read_json(folder / CONFIG_FILE)
    if not (folder / TOKENIZER_FILE).is_file():
        load = f"AutoTokenizer.from_pretrained({str(folder)!r})"
        code = f"from transformers import AutoTokenizer; {load}.save_pretrained({str(folder)!r})"
        raise SourceError(
            f"{folder} has no {TOKENIZER_FILE}; make it where transformers is installed: python -c {shlex.quote(code)}"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint; raises SourceError naming the file."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes; at most {MAX_JSON_BYTES} are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read as JSON ({error}); download the checkpoint again") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path} holds a JSON {type(content).__name__}, not an object; download the checkpoint again")
    return content


def tokenizer_files(folder: Path) -> list[Path]:
    """The files from which a tokenizer model works."""
    names = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, CHAT_TEMPLATE_FILE)
    return [folder / name for name in names if (folder / name).is_file()]


def hash_files(folder: Path, *, weights: bool = True) -> dict[str, str]:
    """SHA-256 of every file that an export may read, by its path in the folder; without ``weights`` of all others."""
    patterns = [pattern for pattern in READ_PATTERNS if weights or pattern != WEIGHTS_PATTERN]
    files = {path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in sorted(files)}


def hash_file(path: Path) -> str:
    """SHA-256 of one file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
