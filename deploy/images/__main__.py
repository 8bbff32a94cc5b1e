"""``python -m deploy.images``: sizes of the images that an engine holds."""

import argparse
import gzip
import json
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from deploy.compose.compose_file import ComposeFile
from deploy.compose.errors import ComposeError

COMPOSE: Final = Path(__file__).parents[2] / "docker-compose.yml"
OURS: Final = "fathom-"
GPU_PROFILES: Final = frozenset({"gpu", "vllm"})
MB: Final = 1_000_000
_PIECE: Final = 1 << 20
_LEVEL: Final = 6
"""gzip's, as docker push has it."""


class ImageError(Exception):
    """An engine or an image that is not there; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ImageSize:
    """Bytes of an image: unpacked as on disk, compressed as a registry keeps and sends it; ``layers`` compressed."""

    name: str
    unpacked: int
    layers: tuple[int, ...]

    @property
    def compressed(self) -> int:
        """All layers together."""
        return sum(self.layers)


def cpu_images(compose: Path = COMPOSE) -> tuple[str, ...]:
    """The images of our own that a compose file starts without a GPU; raises ComposeError."""
    services = ComposeFile.read(compose).with_defaults()["services"].values()
    images = {str(service["image"]) for service in services if not GPU_PROFILES & {*service.get("profiles", ())}}
    return tuple(sorted(image for image in images if image.startswith(OURS)))


def image_size(name: str) -> ImageSize:
    """Weigh an image: each of its layers is compressed once with gzip, and thrown away. Raises ImageError."""
    try:
        inspected = subprocess.run(["docker", "image", "inspect", name], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ImageError("docker is not on the PATH; install Docker's command line") from None
    if inspected.returncode:
        raise ImageError(f"{name}: {inspected.stderr.strip()}; build it (docker compose --profile '*' build)")
    unpacked = int(json.loads(inspected.stdout)[0]["Size"])
    layers = []
    with subprocess.Popen(["docker", "save", name], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None  # noqa: S101 (asked for above)
        with tarfile.open(fileobj=saving.stdout, mode="r|") as archive:
            for member in archive:
                layer = archive.extractfile(member) if _is_layer(member) else None
                if layer is not None:
                    layers.append(_compressed_bytes(layer))
    if saving.returncode:
        raise ImageError(f"docker save {name} failed with status {saving.returncode}; its own line says why")
    return ImageSize(name, unpacked, tuple(layers))


def _is_layer(member: tarfile.TarInfo) -> bool:
    """Layers are ``ID/layer.tar``, or since Docker 25 blobs, beside which the small ones are JSON."""
    return member.isfile() and (member.name.endswith("layer.tar") or member.name.startswith("blobs/"))


def _compressed_bytes(layer: IO[bytes]) -> int:
    counter = _Counter()
    with gzip.GzipFile(fileobj=counter, mode="wb", compresslevel=_LEVEL, mtime=0) as packed:
        while piece := layer.read(_PIECE):
            packed.write(piece)
    return counter.written


class _Counter:
    """A file that counts what is written."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, piece: bytes) -> int:
        self.written += len(piece)
        return len(piece)

    def flush(self) -> None:
        """Nothing is kept."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print sizes of images, unpacked and compressed as a registry keeps them. Exit status 2 where one is missing."""
    parser = argparse.ArgumentParser(prog="python -m deploy.images", description=main.__doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="default: the CPU images of docker-compose.yml")
    parser.add_argument("--json", action="store_true", help="bytes, as JSON")
    options = parser.parse_args(argv)
    try:
        sizes = [image_size(name) for name in options.images or cpu_images()]
    except (ComposeError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({each.name: {"unpacked": each.unpacked, "compressed": each.compressed} for each in sizes}))
        return 0
    print(f"{'image':<28}{'unpacked MB':>12}{'compressed MB':>15}")
    for each in sizes:
        print(f"{each.name:<28}{each.unpacked / MB:>12.0f}{each.compressed / MB:>15.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
