"""Typed access to a checkpoint's JSON files."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from fathom_export.errors import CheckpointError
from fathom_export.sources.folder import MAX_JSON_BYTES

MAX_SIZE: Final = (1 << 31) - 1
MAX_FLOAT: Final = sys.float_info.max


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint; raises CheckpointError naming the file."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes; at most {MAX_JSON_BYTES} are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{path} does not exist; the source must be a folder with a transformers checkpoint "
            "(config.json and safetensors)"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download the checkpoint again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, not an object")
    return content


@dataclass(frozen=True, slots=True)
class ConfigValues:
    """A config.json, or an object in it; every method raises CheckpointError naming the key and its value."""

    config: Mapping[str, Any]
    path: Path

    def size(self, key: str, default: int | None = None, least: int = 1, most: int = MAX_SIZE) -> int:
        """A whole number from ``least`` to ``most``; null counts as absent."""
        value = self.config.get(key)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(f"{self.path} lacks {key}")
        if type(value) is not int or value < least:
            raise CheckpointError(f"{self.path}: {key} is {value!r}; it must be a whole number of at least {least}")
        if value > most:
            raise CheckpointError(f"{self.path}: {key} is {value}; no model has more than {most}")
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        """A number above 0; null counts as absent."""
        value = self.config.get(key)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(f"{self.path} lacks {key}")
        # Not `value <= 0`: JSON's NaN is refused too.
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_FLOAT:
            raise CheckpointError(f"{self.path}: {key} is {value!r}; it must be a number above 0")
        return float(value)

    def optional_positive(self, key: str) -> float | None:
        """A number above 0, or None where it is absent or null."""
        return None if self.config.get(key) is None else self.positive(key)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; null counts as false."""
        value = self.config.get(key, default)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.path}: {key} is {value!r}; it must be true or false")
        return value

    def section(self, key: str) -> "Self | None":
        """An object inside, or None where it is absent or null."""
        value = self.config.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.path}: {key} is {value!r}; it must be an object")
        return type(self)(value, self.path)

    def texts(self, key: str) -> list[str] | None:
        """A list of texts, or None where it is absent or null."""
        value = self.config.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(entry, str) for entry in value)):
            raise CheckpointError(f"{self.path}: {key} is {value!r}; it must be a list of texts")
        return value

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """A list of so many numbers."""
        value = self.config.get(key)
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(isinstance(entry, int | float) and not isinstance(entry, bool) for entry in value)
        ):
            raise CheckpointError(f"{self.path}: {key} is {value!r}; it must be a list of {count} numbers")
        return tuple(map(float, value))
