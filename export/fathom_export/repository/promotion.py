"""Which of the kept versions is served: switched for all models of a spec at once."""

from dataclasses import dataclass
from pathlib import Path

from fathom_export.errors import RepositoryError
from fathom_export.passport import Passport, find_passports
from fathom_export.repository.staging import exclusive, staged, swap_in
from fathom_export.repository.versions import arrange, kept_versions, served_version


@dataclass(frozen=True, slots=True)
class Switch:
    """What was switched: the Triton models, and their served version before (None: none, or not one) and after."""

    models: tuple[str, ...]
    before: int | None
    after: int


def promote(repository: Path, name: str, version: int) -> Switch:
    """Serve a kept version of the models of ``name`` from the next start on.

    Raises RepositoryError if there is no such version, or if a file of it is not as it was written.
    """
    return _switch(repository, name, version)


def rollback(repository: Path, name: str) -> Switch:
    """Serve the newest kept version below the one that is served; raises RepositoryError as ``promote``."""
    return _switch(repository, name, None)


def _switch(repository: Path, name: str, version: int | None) -> Switch:
    if not repository.is_dir():
        raise RepositoryError(f"the model repository {repository} does not exist; export into it first")
    with staged(repository, name) as staging, exclusive(repository):
        passports = find_passports(repository, name)
        if not passports:
            raise RepositoryError(f"{repository} holds no model that was exported as {name!r}")
        models = passports[max(passports)].models
        kept, before = kept_versions(repository, models), served_version(repository, models)
        known = ", ".join(map(str, kept)) or "none"
        if version is None:
            older = [number for number in kept if before is not None and number < before]
            if not older:
                raise RepositoryError(
                    f"{name} has no version before {before or 'the one served'} to go back to; kept: {known} "
                    "(serving.keep_versions says how many)"
                )
            version = older[-1]
        elif version not in kept:
            raise RepositoryError(f"{name} has no version {version}; kept: {known}")
        _check_whole(repository, name, version, passports.get(version))
        arrange(staging, repository, models, kept, version)
        swap_in(staging, repository, models)
    return Switch(models, before, version)


def _check_whole(repository: Path, name: str, version: int, passport: Passport | None) -> None:
    damaged = ["its passport"] if passport is None else passport.damaged_files(repository)
    if damaged:
        raise RepositoryError(
            f"version {version} of {name} is not as it was written ({damaged[0]} is missing or changed); export it "
            "again, or name another version"
        )
