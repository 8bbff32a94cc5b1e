"""The secret that a master and its workers share: it encrypts what they say, and keeps everybody else out."""

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from fathom_loadtest.errors import WorkerError

VARIABLE: Final = "FATHOM_LOAD_SECRET"
"""The environment variable that holds a secret where no file does."""
MIN_CHARACTERS: Final = 16
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True, repr=False)
class WorkerSecret:
    """A text of at least 16 characters; raises WorkerError for another one."""

    text: str

    def __post_init__(self) -> None:
        if len(self.text) < MIN_CHARACTERS:
            raise WorkerError(
                f"the workers' secret has {len(self.text)} characters; it must have {MIN_CHARACTERS} or more, such as "
                "those of openssl rand -hex 32"
            )

    @classmethod
    def random(cls) -> Self:
        """One that nobody else knows."""
        return cls(secrets.token_hex(_KEY_BYTES))

    @classmethod
    def given(cls, file: Path | None) -> Self | None:
        """The one in a file, or else in the environment; None without either. Raises WorkerError."""
        if file is None:
            text = os.environ.get(VARIABLE)
            return None if text is None else cls(text.strip())
        try:
            return cls(file.read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise WorkerError(f"--secret-file {file}: cannot be read ({error})") from error

    def private_key(self, role: str) -> bytes:
        """The Curve25519 key, 32 bytes, of the ``master`` or of the ``worker``s; costs 16 MiB and some 50 ms."""
        return hashlib.scrypt(
            self.text.encode(), salt=f"fathom-load {role}".encode(), n=2**14, r=8, p=1, dklen=_KEY_BYTES
        )
