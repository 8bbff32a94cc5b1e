"""What a served model was made from, by the passports that ``fathom-export`` writes beside its weights."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

PASSPORT_FILE: Final = "passport.json"
_MOST_BYTES: Final = 16 << 20
_BUILD_DIGITS: Final = 12


def passport_rows(repository: Path, model: str, versions: Sequence[str]) -> dict[str, str]:
    """Say what a model was made from, by name and value; one row says why where its passport cannot be read.

    ``versions`` are those that the server has loaded; the newest of them counts. ``build`` is the beginning of a
    SHA-256 sum over those of all the export's files.
    """
    found = [
        passport
        for path in sorted(repository.glob(f"*/[0-9]*/{PASSPORT_FILE}"))
        if path.parent.name in versions and (passport := _read(path)) is not None and model in passport["models"]
    ]
    if not found:
        return {"passport": f"none of {model} in {repository}"}
    passport = max(found, key=lambda one: one["version"])
    source = passport["origin"]["source"]
    rows = {
        "precision": passport["precision"],
        "dialect": passport["dialect"],
        "source": source["given"],
        "revision": source.get("revision"),
        "exported": passport["created"],
        "build": hashlib.sha256(json.dumps(passport["files"], sort_keys=True).encode()).hexdigest()[:_BUILD_DIGITS],
    }
    return {name: str(value) for name, value in rows.items() if value is not None}


def _read(path: Path) -> dict[str, Any] | None:
    """Read a passport; None where it is damaged or none of ours."""
    try:
        with path.open("rb") as file:
            passport = json.loads(file.read(_MOST_BYTES))
        whole = isinstance(passport["models"], list) and isinstance(passport["files"], dict)
        whole = (
            whole and isinstance(passport["version"], int) and isinstance(passport["origin"]["source"]["given"], str)
        )
        whole = whole and {"precision", "dialect", "created"} <= passport.keys()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return passport if whole else None
