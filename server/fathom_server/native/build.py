"""Building ``libfathom_ops.so``: ``python -m fathom_server.native.build``.

Imports nothing of this distribution, so that the package's build hook can run it from the source folder.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent
SOURCES: Final = FOLDER / "src"
LIBRARY: Final = FOLDER / "libfathom_ops.so"

_COMPILERS: Final = ("g++", "c++", "clang++")
_X86_MACHINES: Final = ("x86_64", "AMD64")
# -ffp-contract=off: where products and sums are fused is written in the source, the same at every instruction set
_FLAGS: Final = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-pthread",
)
_AVX2: Final = ("-mavx2", "-mfma", "-mf16c", "-mbmi2")
_ISA_FLAGS: Final = {
    "_avx2": _AVX2,
    "_avxvnni": (*_AVX2, "-mavxvnni"),
    "_avx512vnni": (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"),
}
_DIGEST_MARK: Final = b"fathom-ops-sources:"


class BuildError(RuntimeError):
    """The library could not be built; the message says why and what to do."""


def build(*, force: bool = False) -> Path:
    """Make the library beside its sources, unless it is there and made of the same ones.

    A source whose name ends with an instruction set (``linear_avx2.cpp``) is compiled for it, and left out on machines
    of another architecture. The library appears whole or not at all.

    Raises:
        BuildError: there is no C++ compiler, or it fails.
    """
    digest = source_digest()
    if not force and built_digest() == digest:
        return LIBRARY
    compiler = _compiler()
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".build-") as folder:
        objects = []
        for source in _sources():
            made = Path(folder, f"{source.stem}.o")
            definition = f'-DFATHOM_SOURCE_DIGEST="{digest}"'
            _run([*compiler, *_FLAGS, *_isa_flags(source), definition, "-c", str(source), "-o", str(made)])
            objects.append(str(made))
        library = Path(folder, LIBRARY.name)
        _run([*compiler, "-shared", "-pthread", "-Wl,-z,defs", "-o", str(library), *objects, "-lm"])
        library.replace(LIBRARY)
    return LIBRARY


def source_digest() -> str:
    """SHA-256 of what the library is made of: sources, headers, flags, architecture."""
    digest = hashlib.sha256(repr((_FLAGS, sorted(_ISA_FLAGS.items()), platform.machine())).encode())
    for path in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp"), *SOURCES.glob("*.inl")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def built_digest() -> str | None:
    """The digest that the library on disk carries; None where there is no library."""
    try:
        content = LIBRARY.read_bytes()
    except FileNotFoundError:
        return None
    _, mark, rest = content.partition(_DIGEST_MARK)
    return rest[:64].decode("ascii", "replace") if mark else None


def _sources() -> list[Path]:
    x86 = platform.machine() in _X86_MACHINES
    return [path for path in sorted(SOURCES.glob("*.cpp")) if x86 or not _isa_flags(path)]


def _isa_flags(source: Path) -> tuple[str, ...]:
    return next((flags for suffix, flags in _ISA_FLAGS.items() if source.stem.endswith(suffix)), ())


def _compiler() -> list[str]:
    asked = os.environ.get("CXX")
    if asked:
        return asked.split()
    for name in _COMPILERS:
        found = shutil.which(name)
        if found:
            return [found]
    raise BuildError(
        f"no C++ compiler ({', '.join(_COMPILERS)}) is on the PATH; install one (Debian: apt-get install g++) "
        "or set CXX. Without the library the server runs the stock graph"
    )


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be started: {error}; set CXX to a C++17 compiler") from error
    if result.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{result.stderr.strip()}")


def main() -> int:
    """Build by hand; returns the exit status."""
    try:
        library = build(force="--force" in sys.argv[1:])
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{library}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
