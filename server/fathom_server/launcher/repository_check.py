"""What must be true of a model repository, and of this machine, before Triton is started on it."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fathom_server.errors import LaunchError, SettingsError

CONFIG_FILE: Final = "config.pbtxt"
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (Triton's Python backend uses this very folder)
MIB: Final = 1024 * 1024

_RESPONSE_CACHE: Final = re.compile(r"^[^#\n]*response_cache\s*:?\s*\{\s*enable\s*:\s*true", re.MULTILINE)
_RATE_LIMITER: Final = re.compile(r"^[^#\n]*rate_limiter\s*:?\s*\{", re.MULTILINE)

_CASCADE: Final = re.compile(r'^\s*backend\s*:\s*"cascade"', re.MULTILINE)

REGION_BYTES: Final = 2 * MIB
"""What one Python model needs to start: the backend's first region of 1 MiB, which grows by another at first use."""

COMFORTABLE_BYTES: Final = 256 * MIB
"""Less than this and a few large batches under way at once may not fit."""


def check_repository(repository: Path) -> tuple[str, ...]:
    """Names of the models in the repository, sorted; raises SettingsError if it is missing, no folder, or empty."""
    remedy = f"make one with: fathom-export SOURCE --name chat --task generate --repository {repository}"
    if not repository.exists():
        raise SettingsError(f"the model repository {repository} does not exist; {remedy}")
    if not repository.is_dir():
        raise SettingsError(f"the model repository {repository} is not a folder; {remedy}")
    if (repository / CONFIG_FILE).is_file():
        raise SettingsError(
            f"{repository} is one model, not a repository (it holds {CONFIG_FILE}); name the folder above: "
            f"{repository.resolve().parent}"
        )
    try:
        models = sorted(entry.name for entry in repository.iterdir() if (entry / CONFIG_FILE).is_file())
    except OSError as error:
        raise SettingsError(f"the model repository {repository} cannot be read ({error})") from error
    if not models:
        raise SettingsError(
            f"the model repository {repository} is empty (no folder in it holds {CONFIG_FILE}); {remedy}"
        )
    return tuple(models)


@dataclass(frozen=True, slots=True)
class ServerFeatures:
    """What models ask for that Triton has only when it is started with it."""

    response_cache: bool
    rate_limiter: bool


def wanted_features(repository: Path, models: Iterable[str]) -> ServerFeatures:
    """What the config.pbtxt of any model asks for."""
    configs = [(repository / model / CONFIG_FILE).read_text(encoding="utf-8", errors="replace") for model in models]
    return ServerFeatures(
        response_cache=any(_RESPONSE_CACHE.search(config) for config in configs),
        rate_limiter=any(_RATE_LIMITER.search(config) for config in configs),
    )


def cascades_of(repository: Path, models: Iterable[str]) -> tuple[str, ...]:
    """Those of the models that are cascades, which ask others over this server's own gRPC."""
    return tuple(
        model
        for model in models
        if _CASCADE.search((repository / model / CONFIG_FILE).read_text(encoding="utf-8", errors="replace"))
    )


def free_shared_memory() -> int:
    """Free bytes in /dev/shm, through which Triton and its Python models hand tensors to each other."""
    try:
        stat = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        raise LaunchError(
            f"{SHARED_MEMORY} is missing ({error}); Triton's Python models need it: mount a tmpfs there"
        ) from error
    return stat.f_bavail * stat.f_frsize


def check_shared_memory(free_bytes: int, models: int) -> str | None:
    """A warning if shared memory is scarce for that many models; raises LaunchError if they cannot start."""
    remedy = (
        "give the container more: docker run --shm-size=1g, shm_size in compose, or a memory emptyDir on /dev/shm "
        "in Kubernetes"
    )
    free = f"{SHARED_MEMORY} has {free_bytes / MIB:.0f} MiB free"
    if free_bytes < models * REGION_BYTES:
        raise LaunchError(f"{free}, but {models} models need {models * REGION_BYTES // MIB} MiB to start; {remedy}")
    if free_bytes < COMFORTABLE_BYTES:
        return f"{free}; large batches may not fit. If requests fail for shared memory, {remedy}"
    return None
