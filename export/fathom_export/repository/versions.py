"""Versions of the models that one spec makes: numbered, kept, served and pruned together.

A version lies in the folder N of each model, with the config.pbtxt that serves it; its warm-up requests lie in
``warmup/N``. The model's own config.pbtxt is a copy of the served version's: it names that version alone, and an
ensemble's steps name the same one, so that models of different exports never meet.
"""

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fathom_export.repository.model_config import CONFIG_FILE, VERSION, WARMUP_FOLDER

_BUILT: Final = VERSION


def kept_versions(repository: Path, names: Sequence[str]) -> tuple[int, ...]:
    """Versions of which every model of the set has its part, ascending."""
    found = [
        {int(path.parent.name) for path in (repository / name).glob(f"*/{CONFIG_FILE}") if _is_version(path.parent)}
        for name in names
    ]
    return tuple(sorted(set.intersection(*found))) if found else ()


def served_version(repository: Path, names: Sequence[str]) -> int | None:
    """The version that every model of the set is configured to serve; None if there is none such."""
    served = {_configured_version(repository / name / CONFIG_FILE) for name in names}
    return served.pop() if len(served) == 1 else None


def edited_configs(repository: Path, names: Sequence[str], version: int) -> list[str]:
    """Models whose config.pbtxt is not, byte for byte, the one that serves the version."""
    return [
        name
        for name in names
        if _content(repository / name / CONFIG_FILE) != _content(repository / name / str(version) / CONFIG_FILE)
    ]


def next_version(repository: Path, names: Sequence[str]) -> int:
    """A number above all that any model of the set has."""
    numbers = [int(path.name) for name in names for path in (repository / name).glob("[0-9]*") if _is_version(path)]
    return max(numbers, default=0) + 1


def retained_versions(kept: Collection[int], served: int, keep: int) -> tuple[int, ...]:
    """The served version and the newest others, ``keep`` of them in all, ascending."""
    others = sorted((version for version in kept if version != served), reverse=True)
    return tuple(sorted((served, *others[: keep - 1])))


def number_models(staging: Path, names: Sequence[str], version: int) -> None:
    """Give freshly built models, which builders write as version 1, their number."""
    for name in names:
        folder = staging / name
        config = text_format.Parse((folder / CONFIG_FILE).read_text("utf-8"), model_config_pb2.ModelConfig())
        (folder / _BUILT).rename(folder / str(version))
        for path in folder.iterdir():  # labels, which lie beside the versions
            if path.is_file() and path.name != CONFIG_FILE:
                path.rename(folder / str(version) / path.name)
        for output in config.output:
            if output.label_filename:
                output.label_filename = f"{version}/{output.label_filename}"
        config.version_policy.specific.versions.append(version)
        for step in config.ensemble_scheduling.step:
            if step.model_name in names:
                step.model_version = version
        if (folder / WARMUP_FOLDER).is_dir():
            flat = folder / f"{WARMUP_FOLDER}.flat"
            (folder / WARMUP_FOLDER).rename(flat)
            (folder / WARMUP_FOLDER).mkdir()
            flat.rename(folder / WARMUP_FOLDER / str(version))
            for warmup in config.model_warmup:
                for sent in warmup.inputs.values():
                    if sent.input_data_file:
                        sent.input_data_file = f"{version}/{sent.input_data_file}"
        (folder / CONFIG_FILE).unlink()
        (folder / str(version) / CONFIG_FILE).write_text(_as_text(config), encoding="utf-8")


def arrange(staging: Path, repository: Path, names: Sequence[str], versions: Collection[int], served: int) -> None:
    """Complete the models in the staging folder: versions that the repository has are linked in, one is served.

    Files are hard links where the file system has them, so a version that stays costs no space and no time.
    """
    wanted = set(map(str, versions))

    def unwanted(folder: str, entries: list[str]) -> list[str]:
        path = Path(folder)
        if path.parent == repository:
            return [entry for entry in entries if entry == CONFIG_FILE or (entry.isdigit() and entry not in wanted)]
        if path.name == WARMUP_FOLDER and path.parent.parent == repository:
            return [entry for entry in entries if entry not in wanted]
        return []

    for name in names:
        target = staging / name
        target.mkdir(exist_ok=True)
        if (repository / name).is_dir():
            shutil.copytree(
                repository / name, target, symlinks=True, ignore=unwanted, copy_function=_link, dirs_exist_ok=True
            )
        shutil.copyfile(target / str(served) / CONFIG_FILE, target / CONFIG_FILE)


def _is_version(folder: Path) -> bool:
    name = folder.name
    return folder.is_dir() and name.isascii() and name.isdigit() and not name.startswith("0") and len(name) < 10


def _configured_version(config: Path) -> int | None:
    try:
        parsed = text_format.Parse(config.read_text("utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError):
        return None
    versions = list(parsed.version_policy.specific.versions)
    return int(versions[0]) if len(versions) == 1 else None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _as_text(config: Any) -> str:
    text: str = text_format.MessageToString(config, as_utf8=True)
    return text


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # no hard links here, or none to another's files
        shutil.copy2(source, target, follow_symlinks=False)
