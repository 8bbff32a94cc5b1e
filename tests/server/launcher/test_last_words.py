"""Whatever keeps a server from serving is one line of its log, and one line where its supervisor looks."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fathom_server.launcher.last_words import MAX_BYTES, leave_last_words

MakeRepository = Callable[..., Path]


def failed(tmp_path: Path, *arguments: object) -> tuple[int, str]:
    """Run fathom-serve to its failure: its status, and its last words, which its log must hold as well."""
    file = tmp_path / "termination-log"
    file.touch()
    command = [sys.executable, "-m", "fathom_server.cli", *map(str, arguments), "--termination-log", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    [line] = file.read_text().splitlines()
    assert line in [each.removeprefix("fathom-serve: ").removeprefix("error: ") for each in result.stderr.splitlines()]
    assert "Traceback" not in result.stderr
    return result.returncode, line


def test_missing_volume(tmp_path: Path) -> None:
    """A volume that is not mounted, and one that is empty, are named with what to do."""
    status, line = failed(tmp_path, tmp_path / "volume")
    assert (status, "does not exist" in line) == (2, True)
    (tmp_path / "volume").mkdir()
    status, line = failed(tmp_path, tmp_path / "volume")
    assert (status, "is empty" in line, "fathom-export" in line) == (2, True, True)


def test_busy_port(tmp_path: Path, repository: MakeRepository) -> None:
    """A port that somebody has is named with its flag."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, line = failed(tmp_path, repository("ticker"), "--ports", "auto", "--http-port", port)
    assert (status, f"port {port} (--http-port) is in use" in line) == (2, True)


def test_half_written_model(tmp_path: Path, repository: MakeRepository) -> None:
    """A copy that was broken off midway is named, though Triton waits for it for ever; the others stay as they were."""
    folder = repository("ticker")
    shutil.copytree(folder / "ticker", folder / "half")
    shutil.rmtree(folder / "half" / "1")
    (folder / "half" / "1").mkdir()
    before = {file: file.read_bytes() for file in (folder / "ticker").rglob("*") if file.is_file()}
    status, line = failed(tmp_path, folder, "--ports", "auto", "--log-level", "error")
    assert status == 1
    assert "the process of model 'half' ended while it loaded" in line
    assert "a copy that was broken off" in line
    assert before == {file: file.read_bytes() for file in before}


def test_model_killed_while_it_loads(tmp_path: Path, repository: MakeRepository) -> None:
    """A model whose process the kernel kills is named, with Triton's word for it."""
    folder = repository("ticker")
    shutil.copytree(folder / "ticker", folder / "large")
    model = folder / "large" / "1" / "model.py"
    kill = "import os, signal\n        os.kill(os.getpid(), signal.SIGKILL)\n        self.running = 0"
    model.write_text(model.read_text().replace("self.running = 0", kill))
    status, line = failed(tmp_path, folder, "--ports", "auto", "--log-level", "error")
    assert status == 1
    assert "model 'large' cannot be loaded" in line
    assert "is not healthy" in line


def test_too_little_shared_memory(tmp_path: Path, repository: MakeRepository) -> None:
    """More models than /dev/shm has room for are refused with both numbers and the knob."""
    code = (
        "import sys; from fathom_server.launcher import serve\n"
        "serve.free_shared_memory = lambda: 1024 * 1024\n"
        "from fathom_server.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    file = tmp_path / "termination-log"
    command = [sys.executable, "-c", code, str(repository("ticker")), "--termination-log", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == f"error: {file.read_text()}\n"
    assert "1 MiB free, but 1 models need 2 MiB" in file.read_text()
    assert "emptyDir" in file.read_text()


def test_last_words_fit_and_never_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes' own file is taken where there is one, long reasons are cut, and a file that cannot be is no fault."""
    own = tmp_path / "own"
    monkeypatch.setattr("fathom_server.launcher.last_words.TERMINATION_LOG", own)
    leave_last_words(None, "nobody listens")
    assert not own.exists()
    own.touch()
    leave_last_words(None, "several\nlines " + "x" * MAX_BYTES)
    assert len(own.read_bytes()) == MAX_BYTES
    assert own.read_text().startswith("several lines xxx")
    leave_last_words(tmp_path, "a folder")
