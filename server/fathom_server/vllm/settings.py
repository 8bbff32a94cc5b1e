"""What the engine is told about the vLLM behind it: ``vllm.json``, written by export, read here."""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from fathom_server.errors import SettingsError

VLLM_FILE: Final = "vllm.json"


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """Everything in ``vllm.json``.

    ``model`` is the Triton model of the vLLM backend. At most ``max_requests`` sequences are with vLLM or on their way
    to it; a prompt and its answer together take at most ``max_context`` tokens; ``default_max_tokens`` is for requests
    that name none, ``timeout_s`` the deadline of those that bring none; ``stream_responses_per_s`` bounds the streamed
    responses of all requests, 0 for no bound.
    """

    model: str
    max_requests: int
    max_context: int
    default_max_tokens: int
    timeout_s: float
    stream_responses_per_s: int

    def save(self, folder: Path) -> None:
        """Write ``vllm.json`` into a version's folder."""
        (folder / VLLM_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``vllm.json`` from a version's folder; raises SettingsError naming the file and what is wrong."""
        path = folder / VLLM_FILE
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(**raw)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise SettingsError(
                f"{path} cannot be read ({error!r}); export the model again with fathom-export"
            ) from error


def most_requests(repository: Path) -> int:
    """The largest ``max_requests`` of a repository's models; 0 where none is computed by vLLM."""
    most = 0
    for path in repository.glob(f"*/*/{VLLM_FILE}"):
        with contextlib.suppress(SettingsError):  # the model itself says so when it is loaded
            most = max(most, VllmSettings.load(path.parent).max_requests)
    return most
