"""API keys from a file or from a secret that is mounted as a folder; only their hashes stay in memory."""

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fathom_server.errors import SettingsError
from fathom_server.gateway.edge.request_record import ANONYMOUS, UNKNOWN

MIN_KEY_CHARACTERS: Final = 8
MAX_FILE_BYTES: Final = 1 << 20
RECHECK_S: Final = 1.0
"""A changed file holds from the first request on that comes so many seconds after the last look."""

RESERVED_NAMES: Final = (ANONYMOUS, UNKNOWN)
"""What logs and metrics call callers without a key."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEY: Final = re.compile(r"[!-~]+")

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key's name and the SHA-256 of the key."""

    name: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of one reading, in their order."""

    keys: tuple[ApiKey, ...]

    def name_of(self, presented: bytes) -> str | None:
        """The name of the key that a caller presents; None if it is none. The time taken tells nothing about a key."""
        digest = hashlib.sha256(presented).digest()
        found = None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest):
                found = key.name
        return found


class KeyStore:
    """The keys at a path, read again when they change: a key that is taken out is refused, one put in is accepted.

    What cannot be read on a later look leaves the keys as they were, and is logged. Raises SettingsError if the first
    reading fails. ``clock`` gives seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._ring = read_keys(path)
        self._complaint: str | None = None
        self._next_look_s = clock() + RECHECK_S

    @property
    def ring(self) -> KeyRing:
        """The keys as they are now."""
        if self._clock() >= self._next_look_s:
            self.reload()
        return self._ring

    def reload(self) -> None:
        """Look at the file now."""
        self._next_look_s = self._clock() + RECHECK_S
        try:
            ring = read_keys(self._path)
        except SettingsError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.error("the API keys stay as they were: %s", error)
            return
        self._complaint = None
        if ring != self._ring:
            before, after = ({key.name for key in each.keys} for each in (self._ring, ring))
            self._ring = ring
            added, removed = (", ".join(sorted(names)) or "none" for names in (after - before, before - after))
            _log.warning("API keys read again, there are %d; added: %s; removed: %s", len(after), added, removed)


def read_keys(path: Path) -> KeyRing:
    """Read a key file, or each file of a folder (hidden ones, as Kubernetes makes them beside a secret's, left out).

    A line is ``name:key`` or a key alone; ``#`` begins a comment line. A key alone is named ``key-`` and the first
    eight hexadecimal digits of its SHA-256, or in a folder by its file. Raises SettingsError naming file and line.
    """
    try:
        if path.is_dir():
            files = sorted(each for each in path.iterdir() if not each.name.startswith(".") and each.is_file())
            found = [key for file in files for key in _keys_of(file, file.name)]
        else:
            found = list(_keys_of(path, None))
    except OSError as error:
        raise SettingsError(
            f"API keys cannot be read from {path} ({error.strerror}); check the path and who may read it"
        ) from None
    if not found:
        raise SettingsError(f"{path} holds no API key; write one a line, as name:key, or run without keys")
    names: dict[str, str] = {}
    digests: dict[bytes, str] = {}
    for where, key in found:
        if key.name in names:
            raise SettingsError(
                f"{where}: the name {key.name!r} was given in {names[key.name]} already; each key needs its own"
            )
        if key.digest in digests:
            raise SettingsError(
                f"{where}: the key {key.name!r} is that of {digests[key.digest]} once more; remove one of them"
            )
        names[key.name] = digests[key.digest] = where
    return KeyRing(tuple(key for _, key in found))


def _keys_of(file: Path, default_name: str | None) -> Iterator[tuple[str, ApiKey]]:
    """Where each key of a file stands, and the key. No message shows a key."""
    with file.open("rb") as opened:
        content = opened.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise SettingsError(f"{file} is larger than {MAX_FILE_BYTES} bytes; is it a file of API keys?")
    for number, raw in enumerate(content.splitlines(), start=1):
        where = f"{file}, line {number}"
        try:
            line = raw.decode("ascii").strip()
        except UnicodeDecodeError:
            raise SettingsError(
                f"{where}: a name or key has a character that is not ASCII; use letters, digits and signs"
            ) from None
        if not line or line.startswith("#"):
            continue
        given, colon, rest = line.partition(":")
        name, key = (given.strip(), rest.strip()) if colon else (default_name, line)
        if not _KEY.fullmatch(key) or len(key) < MIN_KEY_CHARACTERS:
            raise SettingsError(
                f"{where}: a key has at least {MIN_KEY_CHARACTERS} characters and no space (line: name:key)"
            )
        digest = hashlib.sha256(key.encode()).digest()
        name = f"key-{digest.hex()[:8]}" if name is None else name
        if not _NAME.fullmatch(name) or name in RESERVED_NAMES:
            raise SettingsError(
                f"{where}: what stands before the colon is no name; use up to 64 letters, digits, '_', '-' and '.', "
                f"and not {' or '.join(RESERVED_NAMES)}"
            )
        yield where, ApiKey(name, digest)
