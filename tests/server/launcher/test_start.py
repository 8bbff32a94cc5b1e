"""How a server starts, and what it says when it cannot."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serving import FathomServe

from fathom_server.errors import LaunchError, SettingsError
from fathom_server.launcher import tritonserver as finder
from fathom_server.launcher.backend_folder import assemble_backends, python_folder
from fathom_server.launcher.repository_check import MIB, check_repository, check_shared_memory
from fathom_server.launcher.settings import LaunchSettings
from fathom_server.launcher.tritonserver import Tritonserver, find_tritonserver

Serve = Callable[..., FathomServe]
MakeRepository = Callable[..., Path]
HEAVY = ("grpc", "numpy", "onnxruntime", "rich", "torch", "tokenizers", "jinja2", "tritonclient")


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run fathom-serve to its end."""
    command = [sys.executable, "-m", "fathom_server.cli", *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def refusal(*arguments: object, **environment: str) -> str:
    """What fathom-serve says on one line when it refuses to start."""
    result = run(*arguments, **environment)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def wheel() -> Tritonserver:
    """The installation in the nvidia-pytriton wheel."""
    return find_tritonserver()


def test_ready_server_says_where_it_is(serve: Serve, repository: MakeRepository) -> None:
    """Once ready, stdout has one JSON line equal to the ports file, every port answers, and Triton's log has a file."""
    server = serve(repository("ticker"), "--log-level", "error")
    announced = json.loads(server.ports_file.read_text())
    assert set(announced) == {"grpc", "http", "metrics", "pid"}
    assert announced["pid"] == server.pid
    assert server.get("/v2/health/ready")[0] == 200
    assert b"nv_inference_request_success" in server.get("/metrics", server.metrics_port)[1]
    with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=5):
        pass
    assert server.process is not None
    assert server.process.stdout is not None
    line = server.process.stdout.readline()
    assert json.loads(line) == announced
    assert server.stop() == 0
    assert "ticker is loaded" in server.stderr()
    assert "successfully loaded 'ticker'" not in server.stderr()
    assert "successfully loaded 'ticker'" in (server.log / "triton.log").read_text()
    assert not server.ports_file.exists()


def test_model_that_fails_is_named_with_its_reason(repository: MakeRepository) -> None:
    """Every model that cannot be loaded is named with Triton's reason, and the status is Triton's."""
    folder = repository("ticker", "broken")
    mistyped = folder / "mistyped"
    shutil.copytree(folder / "ticker", mistyped)
    with (mistyped / "config.pbtxt").open("a") as config:
        config.write("max_batch_sice: 3\n")
    result = run(folder, "--ports", "auto", "--log-level", "error")
    assert result.returncode == 1
    assert result.stdout == ""
    [line] = [line for line in result.stderr.splitlines() if line.startswith("fathom-serve: error: ")]
    assert "model 'broken' cannot be loaded" in line
    assert "the weights are nowhere to be found" in line
    assert "model 'mistyped' cannot be loaded" in line
    assert "max_batch_sice" in line


def test_start_that_takes_too_long_is_given_up(repository: MakeRepository) -> None:
    """A server that is not ready in time ends, naming the models that still load."""
    folder = repository("ticker")
    model = folder / "ticker" / "1" / "model.py"
    model.write_text(model.read_text().replace("self.running = 0", "self.running = 0\n        time.sleep(600)"))
    result = run(folder, "--ports", "auto", "--ready-timeout-s", "3", "--log-level", "error")
    assert result.returncode == 1
    assert "not ready after 3 s (--ready-timeout-s); still loading: ticker" in result.stderr


@pytest.mark.parametrize("flag", ["--grpc-port", "--http-port", "--metrics-port"])
def test_port_in_use(repository: MakeRepository, flag: str) -> None:
    """A port that is taken is named with its flag before Triton starts, and so is the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(repository("ticker"), "--ports", "auto", flag, port)
    assert f"port {port} ({flag}) is in use" in line
    assert "--ports auto" in line


def test_wrong_flags(repository: MakeRepository) -> None:
    """Values that cannot be are refused by name."""
    folder = repository("ticker")
    assert "--grpc-port is 70000" in refusal(folder, "--grpc-port", 70000)
    assert "--drain-s is -1" in refusal(folder, "--drain-s", -1)
    assert "--drain-s is nan" in refusal(folder, "--drain-s", "nan")
    assert "given twice" in refusal(folder, "--ports", "auto", "--grpc-port", 18123, "--http-port", 18123)
    assert "--host '192.0.2.1'" in refusal(folder, "--host", "192.0.2.1", "--grpc-port", 18123)
    assert "--log-file" in refusal(folder, "--ports", "auto", "--log-file", folder)


def test_repository_that_cannot_be_served(tmp_path: Path, repository: MakeRepository) -> None:
    """A repository that is missing, a file, empty, or really one model is refused with what to do."""
    missing = refusal(tmp_path / "nowhere")
    assert "does not exist" in missing
    assert "fathom-export" in missing
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refusal(tmp_path / "file")
    (tmp_path / "empty" / "chat").mkdir(parents=True)
    empty = refusal(tmp_path / "empty")
    assert "is empty" in empty
    assert "fathom-export" in empty
    folder = repository("ticker")
    assert f"name the folder above: {folder}" in refusal(folder / "ticker")
    assert check_repository(folder) == ("ticker",)


def test_no_tritonserver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a Triton the error names every place that was tried and both ways to get one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(finder, "CONTAINER_BINARY", tmp_path / "tritonserver")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "pytriton", raising=False)
    with pytest.raises(LaunchError) as caught:
        find_tritonserver()
    for part in ("on PATH", str(tmp_path / "tritonserver"), "nvidia-pytriton", "fathom-server[embedded]", "container"):
        assert part in str(caught.value)


def test_given_tritonserver_is_checked(repository: MakeRepository, tmp_path: Path) -> None:
    """--tritonserver must name a program with a Python backend beside it."""
    folder = repository("ticker")
    assert f"{tmp_path}/no is not a program" in refusal(folder, "--tritonserver", tmp_path / "no")
    line = refusal(folder, "--tritonserver", shutil.which("true"))
    assert "has no Python backend" in line


def container(root: Path) -> Path:
    """A real Triton laid out as in NVIDIA's container: the stub beside the Python backend, other backends around."""
    source = wheel()
    (root / "bin").mkdir(parents=True)
    shutil.copy2(source.binary, root / "bin" / "tritonserver")
    shutil.copytree(source.backends / "python", root / "backends" / "python")
    shutil.copy2(source.stub, root / "backends" / "python")
    native = root / "backends" / "onnxruntime"
    native.mkdir()
    (native / "libtriton_onnxruntime.so").touch()
    return root / "bin" / "tritonserver"


def test_container_layout_is_served(
    serve: Serve, repository: MakeRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation laid out like the container's is used as it stands, through links."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(wheel().libraries[0]))
    server = serve(repository("ticker"), "--tritonserver", str(container(tmp_path / "triton")))
    assert server.get("/v2/models/ticker/ready")[0] == 200
    assert server.stop() == 0


def test_native_backends_are_kept(tmp_path: Path) -> None:
    """Where Triton has its own onnxruntime backend ours stays out; where it has none ours goes in."""
    in_container = assemble_backends(Tritonserver.at(container(tmp_path / "triton")), tmp_path / "a")
    assert (in_container.path / "onnxruntime" / "libtriton_onnxruntime.so").exists()
    assert "onnxruntime" not in in_container.python_based
    embedded = assemble_backends(wheel(), tmp_path / "b")
    assert (embedded.path / "onnxruntime" / "model.py").is_file()
    assert set(embedded.python_based) == {"python", "fathom", "cascade", "onnxruntime"}


def test_stub_of_another_python_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python backend built for another Python is refused by version, in either layout."""
    in_wheel = wheel().binary
    binary = container(tmp_path / "triton")
    stub = binary.parent.parent / "backends" / "python" / finder.STUB
    minor = sys.version_info.minor
    stub.write_bytes(stub.read_bytes().replace(f"libpython3.{minor}.so".encode(), b"libpython3.10.so"))
    with pytest.raises(LaunchError, match=r"is for Python 3\.10, but fathom-serve runs on Python"):
        Tritonserver.at(binary)
    monkeypatch.setattr(finder, "PYTHON_VERSION", "3.99")
    with pytest.raises(LaunchError, match=r"no Python backend for Python 3\.99, only for 3\.8, 3\.9, 3\.10"):
        Tritonserver.at(in_wheel)


def test_missing_python_library_is_named(tmp_path: Path) -> None:
    """A stub whose Python library is not installed is found out before Triton starts, with what to install."""
    triton = Tritonserver.at(container(tmp_path / "triton"))
    minor = sys.version_info.minor
    triton.stub.write_bytes(
        triton.stub.read_bytes().replace(f"libpython3.{minor}.so.1.0".encode(), f"libpythonX.{minor}.so.1.0".encode())
    )
    with pytest.raises(LaunchError, match=rf"libpythonX.*apt-get install libpython3\.{minor}"):
        triton.check_stub({**triton.environment(tmp_path), "LD_LIBRARY_PATH": str(wheel().libraries[0])})


def test_stub_gets_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder put first on PATH has a python3 that is this interpreter, also where none stands beside it."""
    assert (python_folder(tmp_path / "unused") / "python3").resolve() == Path(sys.executable).resolve()
    lonely = tmp_path / "python3.x"
    lonely.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(lonely))
    assert (python_folder(tmp_path / "made") / "python3").resolve() == lonely.resolve()


def test_shared_memory_is_checked() -> None:
    """Too little shared memory to start is an error, little is a warning, and both name the knob."""
    with pytest.raises(LaunchError, match=r"has 3 MiB free, but 4 models need 8 MiB .*--shm-size"):
        check_shared_memory(3 * MIB, models=4)
    warning = check_shared_memory(64 * MIB, models=4)
    assert warning is not None
    assert "64 MiB free" in warning
    assert "--shm-size" in warning
    assert check_shared_memory(1024 * MIB, models=4) is None


def test_settings_are_checked() -> None:
    """Settings made in Python are held to what the flags are."""
    with pytest.raises(SettingsError, match="--log-level is 'loud'; valid: info, warning, error"):
        LaunchSettings(Path(), log_level="loud")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="--log-verbose is -1"):
        LaunchSettings(Path(), log_verbose=-1)


def test_help_imports_nothing_heavy() -> None:
    """--help prints every flag without importing numpy, gRPC or a runtime."""
    code = (
        "import sys; from fathom_server.cli import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print('HEAVY', sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in result.stdout
    for flag in ("--ports", "--grpc-port", "--drain-s", "--ready-timeout-s", "--tritonserver", "--log-level"):
        assert flag in result.stdout
