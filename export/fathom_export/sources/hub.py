"""Checkpoints from the Hugging Face hub, or from a mirror that HF_ENDPOINT names."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fathom_export.errors import SourceError
from fathom_export.sources.folder import READ_PATTERNS, WEIGHTS_PATTERN
from fathom_export.sources.resolve import Source

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[^@\s]+)?")
_IGNORED: Final = ("onnx/*", "openvino/*", "original/*", "consolidated*")
"""The same weights again in forms that are not read."""


def looks_like_hub_id(given: str) -> bool:
    """Whether a source is spelled ``org/name`` or ``org/name@revision``."""
    return _HUB_ID.fullmatch(given) is not None


def fetch_from_hub(given: str, *, fetch: bool = True, weights: bool = True) -> Source:
    """Download a snapshot into the hub's own cache, or find it there.

    Fetches json, safetensors, tokenizer and template files only: no pickle, no code; without ``weights`` no safetensors
    either. Without ``fetch`` only the cache is looked at. Raises SourceError naming the id and the remedy.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = given.partition("@")
    with hub_faults(given, fetch=fetch):
        folder = snapshot_download(
            repository,
            revision=revision or None,
            endpoint=hub_endpoint(),
            allow_patterns=[pattern for pattern in READ_PATTERNS if weights or pattern != WEIGHTS_PATTERN],
            ignore_patterns=list(_IGNORED),
            local_files_only=not fetch,
        )
    return Source(given, "hub", Path(folder), revision=Path(folder).name)


def hub_endpoint() -> str:
    """The hub's address, or that of the mirror which ``HF_ENDPOINT`` names."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@contextmanager
def hub_faults(given: str, *, fetch: bool = True) -> Iterator[None]:
    """Raise the hub's errors as SourceError naming the id and the remedy."""
    from huggingface_hub import errors

    repository, _, revision = given.partition("@")
    endpoint = hub_endpoint()
    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceError(
            f"{given} is gated at {endpoint}; accept its terms on the model's page, then set HF_TOKEN to a token that "
            "may read it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(
            f"{given}: {repository} has no revision {revision!r} at {endpoint}; name a branch, a tag or a full commit"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"{given} is neither a folder here nor a model at {endpoint} that is public or open to you; check the "
            "spelling, and set HF_TOKEN if the model is private"
        ) from error
    except errors.HFValidationError as error:
        raise SourceError(f"{given} is neither a folder here nor a valid hub id: {error}") from error
    except errors.LocalEntryNotFoundError as error:
        if not fetch:
            raise SourceError(f"{given} is not whole in the hub's cache; export it, which downloads it") from error
        raise SourceError(
            f"{given} is no folder here, not whole in the hub's cache, and cannot be downloaded from {endpoint}; mend "
            "the network, set HF_ENDPOINT to a mirror (and HF_HUB_OFFLINE=0), or name a folder with the checkpoint"
        ) from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            reason = "refuses access; set HF_TOKEN to a token that may read it"
        else:
            reason = f"answers {error.response.status_code}; try again later or name a folder with the checkpoint"
        raise SourceError(f"{given}: {endpoint} {reason}") from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # httpx's root, which the hub's errors share
        raise SourceError(f"{given}: the download from {endpoint} broke off ({error}); try again") from error
