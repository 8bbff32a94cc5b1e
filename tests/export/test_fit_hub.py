"""Checkpoints on the hub are sized from ranges of their files."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.export.hub_stand_in import BROKEN, GATED, HubStandIn, running_hub

from fathom_export.errors import ExportError
from fathom_export.fit.source import read_source

ROOT = Path(__file__).resolve().parents[2]
LARGE = ROOT / "examples" / "models" / "large"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A hub with ``large``, with a repository of pickles, and with one that lacks its config."""
    pickles, bare = tmp_path / "pickles", tmp_path / "bare"
    for folder in (pickles, bare):
        folder.mkdir()
    (pickles / "config.json").write_bytes((LARGE / "config.json").read_bytes())
    (pickles / "pytorch_model.bin").write_bytes(b"no")
    (bare / "model.safetensors").write_bytes(b"no")
    with running_hub({"acme/large": LARGE, "acme/pickles": pickles, "acme/bare": bare}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        yield running


def test_a_hub_id_is_sized_as_its_folder_is_and_only_headers_are_fetched(hub: HubStandIn) -> None:
    """The same shape and bytes as from the folder, at the commit that the hub names, for 100 kB of a 10 MB file."""
    remote, local = read_source("acme/large", Path()), read_source(str(LARGE), Path())
    assert (remote.shape, remote.stored_bytes, remote.context_limit) == (
        local.shape,
        local.stored_bytes,
        local.context_limit,
    )
    assert remote.revision == "0123456789abcdef0123456789abcdef01234567"
    sent = hub.sent_bytes["model.safetensors"]
    assert 0 < sent <= 100_001 < (LARGE / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("acme/pickles", "holds no safetensors"),
        ("acme/bare", "has no config.json"),
        ("acme/none", "neither a folder here nor a model at"),
        ("acme/large@v9", "has no revision 'v9'"),
        (GATED, "is gated"),
        (BROKEN, "answers 500"),
    ],
)
def test_what_the_hub_refuses_is_said_in_a_sentence(hub: HubStandIn, given: str, said: str) -> None:
    """No traceback of the hub's client reaches the caller."""
    with pytest.raises(ExportError, match="acme/") as refused:
        read_source(given, Path())
    assert said in str(refused.value)


def test_a_name_that_is_neither_folder_nor_hub_id(tmp_path: Path) -> None:
    """A path that is not there is no hub id."""
    with pytest.raises(ExportError, match="does not exist; name a folder"):
        read_source("./nowhere/at/all", tmp_path)
