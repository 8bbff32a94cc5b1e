"""Models are built beside the repository and moved in together, so that nobody ever meets half of one."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from fathom_export.errors import RepositoryError

STAGING_PREFIX: Final = ".fathom-staging-"

FP32_COPY: Final = ".fp32"
"""The folder of an encoder's graph before it was quantised, for its quality card; it stays in the staging folder."""

_RETIRED: Final = ".retired"
_OWNER: Final = ".repository"
_LOCK: Final = ".lock"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNWRITABLE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EIO)


@contextlib.contextmanager
def staged(repository: Path, name: str) -> Iterator[Path]:
    """A folder to build model ``name`` in, on the repository's file system; it is removed however the block ends.

    Triton takes every folder of a repository for a model, hidden ones too, so the staging folder lies beside it. Raises
    RepositoryError where the disk is full or the place cannot be written.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        parent = _staging_parent(repository)
        with exclusive(repository):
            _remove_abandoned(parent, repository)
            staging = Path(tempfile.mkdtemp(prefix=f"{STAGING_PREFIX}{name}-", dir=parent))
            lock = _lock(staging)
        (staging / _OWNER).write_text(str(repository.resolve()), encoding="utf-8")
    except OSError as error:
        raise _write_error(repository, error) from error
    try:
        yield staging
    except OSError as error:
        if _is_full(error) or error.errno in _UNWRITABLE:
            raise _write_error(repository, error) from error
        raise
    finally:
        try:
            shutil.rmtree(staging, ignore_errors=True)
        except BaseException:  # an impatient second Ctrl-C
            shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            if lock is not None:
                lock.close()


def swap_in(staging: Path, repository: Path, names: Sequence[str], retire: Sequence[str] = ()) -> None:
    """Move the models in place of those of the same names: all of them, or, if anything fails, none.

    Models to ``retire`` leave the repository in the same move.
    """
    retired = staging / _RETIRED
    retired.mkdir()
    try:
        for name in (*retire, *names):
            if (repository / name).exists():
                (repository / name).rename(retired / name)
        for name in names:
            (staging / name).rename(repository / name)
    except BaseException:
        _roll_back(staging, repository, (*retire, *names))
        raise


@contextlib.contextmanager
def exclusive(repository: Path) -> Iterator[None]:
    """Hold the repository while what lies in it is counted and changed; another export waits."""
    descriptor = os.open(repository, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # network file systems may not lock folders; one user at a time, then
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _roll_back(staging: Path, repository: Path, names: Sequence[str]) -> None:
    """Put the old models back, whatever point the swap had reached: told from where each folder lies now."""
    for name in names:
        old, new, place = staging / _RETIRED / name, staging / name, repository / name
        if not new.exists() and place.exists():
            place.rename(new)
        if old.exists():
            old.rename(place)


def _staging_parent(repository: Path) -> Path:
    """The folder beside the repository, or the repository where it is a mount point, for no rename crosses one."""
    parent = repository.resolve().parent
    same_file_system = parent.stat().st_dev == repository.stat().st_dev
    return parent if same_file_system and os.access(parent, os.W_OK) else repository


def _remove_abandoned(parent: Path, repository: Path) -> None:
    """Clear away the staging folders of exports that were killed, and finish undoing their swaps."""
    for staging in parent.glob(f"{STAGING_PREFIX}*"):
        if not _belongs_to(staging, repository):
            continue
        lock = _lock(staging)
        if lock is None:
            continue  # its export is still running
        with lock:
            if (staging / _RETIRED).is_dir():
                _roll_back(staging, repository, [path.name for path in (staging / _RETIRED).iterdir()])
            shutil.rmtree(staging, ignore_errors=True)


def _belongs_to(staging: Path, repository: Path) -> bool:
    """Whether a staging folder is this repository's, and not that of another one beside it."""
    try:
        return (staging / _OWNER).read_text(encoding="utf-8") == str(repository.resolve())
    except OSError:  # its export has only just begun
        return False


def _lock(staging: Path) -> IO[str] | None:
    """Hold a staging folder until the file is closed or this process dies; None if another holds it."""
    try:
        file = (staging / _LOCK).open("w")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _is_full(error: OSError) -> bool:
    """Whether a write failed for want of room; numpy reports its short writes without an error number."""
    return error.errno in _FULL or (error.errno is None and str(error).endswith(" written"))


def _write_error(repository: Path, error: OSError) -> RepositoryError:
    reason = error.strerror or error
    if _is_full(error):
        return RepositoryError(
            f"the disk of {repository} is full ({reason}); free some space or name another --repository; the models "
            "that were there are as they were"
        )
    return RepositoryError(
        f"{error.filename or repository} cannot be read or written ({reason}); mend its permissions or name "
        "another --repository"
    )
