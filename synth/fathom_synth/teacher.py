"""The teacher's card: its licence from the front matter, its revision from the passport or the checkpoint's files."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from fathom_synth.errors import JobError
from fathom_synth.job import TeacherSettings
from fathom_synth.licences import Decision, decide

CARD_FILE: Final = "README.md"
PASSPORT_FILE: Final = "passport.json"
MAX_CARD_BYTES: Final = 16 << 20
_FENCE: Final = "---"


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who writes: name on the server, where the checkpoint came from, its revision, and what its licence allows."""

    model: str
    source: str
    revision: str
    decision: Decision

    @property
    def identity(self) -> dict[str, str | None]:
        """What decides its answers."""
        return {"model": self.model, "revision": self.revision}


def read_teacher(settings: TeacherSettings) -> Teacher:
    """Read the teacher's card and decide on its licence.

    ``card`` is a README.md, a folder that holds one, or the passport.json of an export (or the folder that holds it),
    which leads to the checkpoint's folder. Raises JobError and LicenceError.
    """
    passport = _passport_file(settings.card)
    if passport is not None:
        origin = _read_origin(passport)
        card = _card_of_source(origin, passport)
        source, revision = _shown(str(origin["source"].get("given", ""))), _revision(origin)
    else:
        card = settings.card / CARD_FILE if settings.card.is_dir() else settings.card
        source, revision = _shown(str(card.parent)), None
    matter = read_front_matter(card)
    if settings.revision is None and revision is None:
        revision = _checkpoint_revision(card.parent)
    return Teacher(
        model=settings.model,
        source=source,
        revision=settings.revision or revision or "",
        decision=decide(_licence(matter, card), settings.override_licence, str(card)),
    )


def read_front_matter(card: Path) -> Mapping[str, Any]:
    """Read a model card's YAML front matter; empty where it has none. Raises JobError."""
    try:
        with card.open("rb") as file:
            text = file.read(MAX_CARD_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise JobError(
            f"teacher.card is {card}, which cannot be read ({error.strerror}); name a model card (README.md), its "
            "folder, or an export's passport.json"
        ) from error
    except UnicodeDecodeError as error:
        raise JobError(f"{card}: is not UTF-8 (byte {error.start}); name a model card") from error
    first, *lines = text.splitlines() or [""]
    if first.strip() != _FENCE or _FENCE not in (stripped := [line.strip() for line in lines]):
        return {}
    try:
        matter = yaml.safe_load("\n".join(lines[: stripped.index(_FENCE)]))
    except (yaml.YAMLError, RecursionError) as error:
        raise JobError(f"{card}: its front matter is not YAML ({' '.join(str(error).split())})") from error
    return matter if isinstance(matter, dict) else {}


def _licence(matter: Mapping[str, Any], card: Path) -> str | None:
    """The licence's identifier; of ``other``, the name that goes with it."""
    licence = matter.get("license")
    if isinstance(licence, list):
        if len(licence) > 1:
            raise JobError(f"{card}: names {len(licence)} licences ({licence}); only one can be decided on")
        licence = licence[0] if licence else None
    if licence == "other":
        licence = matter.get("license_name") or "other"
    return str(licence) if licence else None


def _passport_file(card: Path) -> Path | None:
    """The passport that a card's path means; None where it means a model card."""
    if card.name == PASSPORT_FILE:
        return card
    if not card.is_dir() or (card / CARD_FILE).is_file():
        return None
    versions = [path for path in card.glob(f"[0-9]*/{PASSPORT_FILE}") if path.parent.name.isdecimal()]
    found = [card / PASSPORT_FILE] if (card / PASSPORT_FILE).is_file() else versions
    return max(found, key=lambda path: int(path.parent.name) if path.parent.name.isdecimal() else 0, default=None)


def _read_origin(passport: Path) -> Mapping[str, Any]:
    try:
        origin = json.loads(passport.read_text(encoding="utf-8"))["origin"]
        if isinstance(origin["source"], dict) and isinstance(origin["source_files"], dict):
            return dict(origin)
    except OSError as error:
        raise JobError(f"{passport}: cannot be read ({error.strerror}); name a model card or a passport") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise JobError(f"{passport}: is no passport of an export; name a model card (README.md)")


def _card_of_source(origin: Mapping[str, Any], passport: Path) -> Path:
    """The model card of the checkpoint that an export was made from."""
    given = str(origin["source"].get("given", ""))
    card = Path(given) / CARD_FILE
    if not card.is_file():
        raise JobError(
            f"{passport}: was made from {given!r}, where no model card is found from here; "
            "give teacher.card the path of its README.md"
        )
    return card


def _revision(origin: Mapping[str, Any]) -> str:
    """The source's own revision; of a folder, a checksum over the files that the export read."""
    revision = origin["source"].get("revision")
    if revision:
        return str(revision)
    return "sha256:" + hashlib.sha256(json.dumps(origin["source_files"], sort_keys=True).encode()).hexdigest()[:32]


def _checkpoint_revision(folder: Path) -> str:
    """A checksum over a checkpoint's config and weights, which lie beside its card. Raises JobError without weights."""
    paths = sorted((*folder.glob("config.json"), *folder.glob("*.safetensors")))
    if not any(path.suffix == ".safetensors" for path in paths):
        raise JobError(
            f"{folder}: holds no weights beside the card, so the teacher's revision is not known; "
            "give teacher.revision, or the export's passport.json as teacher.card"
        )
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(f"{path.name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:32]}"


def _shown(source: str) -> str:
    """A source as rows tell it: a hub id as it is, of a folder its name, which says nothing of the machine."""
    return Path(source).resolve().name if source.startswith((".", "/")) or Path(source).is_dir() else source
