"""One real server a session over stand-ins for an LLM and an embedding model, and clients of it."""

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving import FathomServe

from fathom_client import AsyncClient, Client

REPOSITORY = Path(__file__).parent / "repository"
PATIENCE_S = 10.0


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the session's server."""
    with FathomServe(REPOSITORY, tmp_path_factory.mktemp("client-server")) as server:
        yield server.url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """A sync client of the session's server."""
    with Client(url) as opened:
        yield opened


@pytest.fixture
async def async_client(url: str) -> AsyncIterator[AsyncClient]:
    """An async client of the session's server."""
    async with AsyncClient(url) as opened:
        yield opened


@pytest.fixture
def ordered(tmp_path: Path) -> Callable[..., str]:
    """Make a prompt that tells the stand-in how to behave, and to leave files ``started`` and ``cancelled`` behind."""

    def make(text: str, **orders: Any) -> str:
        orders.setdefault("marker", str(tmp_path / "cancelled"))
        orders.setdefault("started", str(tmp_path / "started"))
        return json.dumps(orders) + "\n" + text

    return make


@pytest.fixture
def seen(tmp_path: Path) -> Callable[[str], str]:
    """Wait for a file that the stand-in writes, and return what it says."""

    def wait(name: str) -> str:
        path, deadline = tmp_path / name, time.monotonic() + PATIENCE_S
        while not (path.exists() and path.read_text(encoding="utf-8")):
            assert time.monotonic() < deadline, f"the server never wrote {name!r}"
            time.sleep(0.01)
        return path.read_text(encoding="utf-8")

    return wait


@pytest.fixture
def cli(url: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``fathom-client`` in a process of its own against the session's server."""

    def run(*arguments: str, stdin: str | bytes = b"", to: str = url) -> subprocess.CompletedProcess[str]:
        raw = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [sys.executable, "-m", "fathom_client.cli", "--url", to, *arguments],
            input=raw,
            capture_output=True,
            timeout=60,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
