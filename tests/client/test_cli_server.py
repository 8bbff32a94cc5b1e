"""``status``, ``models``, ``wait``, ``load`` and ``unload``: the server from the command line."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fathom_client import Client

from . import triton
from .terminal import PATIENCE_S, fathom_client

Cli = Callable[..., subprocess.CompletedProcess[str]]

REPOSITORY = Path(__file__).parent / "repository"
MODELS = ["chat", "minilm", "moods", "reranker"]


@pytest.fixture(scope="module")
def empty_handed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.Triton]:
    """A server that loads models when it is told to, and one of whose models cannot be loaded."""
    folder = tmp_path_factory.mktemp("explicit")
    for name in ("minilm", "moods"):
        shutil.copytree(REPOSITORY / name, folder / "models" / name)
    (folder / "models" / "moods" / "1" / "model.py").write_text("raise RuntimeError('no mood at all')\n")
    server = triton.start(folder / "models", folder / "server", "--model-control-mode=explicit")
    try:
        yield server
    finally:
        server.stop()


def test_status_shows_server_models_and_counts(cli: Cli, client: Client) -> None:
    """``status`` says what the server is, and of each model its state, requests, failures and mean times."""
    before = {each.name: each for each in client.statistics()}["minilm"]
    client.embed("minilm", ["one", "two"])
    done = cli("status")
    assert (done.stderr, done.returncode) == ("", 0)
    first, heads, *rows = done.stdout.splitlines()
    assert re.fullmatch(r"triton [\d.]+ at \S+ is ready", first)
    assert heads.split() == ["MODEL", "VERSION", "STATE", "REQUESTS", "FAILED", "QUEUE_MS", "COMPUTE_MS"]
    assert [row.split()[:3] for row in rows] == [[model, "1", "READY"] for model in MODELS]
    requests, failed, queue_ms, compute_ms = rows[MODELS.index("minilm")].split()[3:]
    assert int(requests) == before.num_succeeded + 1
    assert int(failed) == before.num_failed
    assert float(queue_ms) >= 0.0
    assert float(compute_ms) >= 0.0


def test_status_as_json(cli: Cli, client: Client) -> None:
    """``--json`` gives everything that is known of server and models in one object."""
    client.embed("minilm", ["one", "two"])
    seen = json.loads(cli("status", "--json").stdout)
    assert (seen["name"], seen["is_ready"]) == ("triton", True)
    assert [model["name"] for model in seen["models"]] == MODELS
    (minilm,) = [model for model in seen["models"] if model["name"] == "minilm"]
    assert (minilm["state"], minilm["version"]) == ("READY", "1")
    assert minilm["statistics"]["num_inferences"] >= 2
    assert minilm["statistics"]["compute_s"] > 0.0
    assert "gauges" not in minilm


def test_statistics_of_one_model(client: Client) -> None:
    """The client gives one model's counts; a refused request is among its failures, and means follow from sums."""
    (before,) = client.statistics("moods")
    client.classify("moods", ["+", "-", "x"], batch_size=3)
    (after,) = client.statistics("moods")
    while after.num_succeeded == before.num_succeeded:  # Triton counts an answer after it has sent it
        time.sleep(0.05)
        (after,) = client.statistics("moods")
    assert (after.name, after.version) == ("moods", "1")
    assert after.num_succeeded == before.num_succeeded + 1
    assert after.num_inferences == before.num_inferences + 3
    assert after.mean_compute_s == after.compute_s / after.num_succeeded
    assert after.mean_queue_s is not None


def test_status_away_from_a_server(cli: Cli) -> None:
    """No server is one line and exit status 1; so are metrics that are not there."""
    done = cli("status", to="127.0.0.1:1")
    assert (done.stdout, done.returncode, done.stderr.count("\n")) == ("", 1, 1)
    done = cli("status", "--metrics", "127.0.0.1:1")
    assert (done.stdout, done.returncode) == ("", 1)
    assert re.fullmatch(r"error: no metrics at http://127\.0\.0\.1:1/metrics: .*often 8002\n", done.stderr)
    done = cli("status", "--metrics", "ftp://localhost/metrics")
    assert done.stderr == (
        "error: --metrics is 'ftp://localhost/metrics'; give HOST:PORT of Triton's metrics, or a URL of http\n"
    )
    assert done.returncode == 2


def test_models_and_their_tensors(cli: Cli) -> None:
    """``models`` lists the repository; with a name it shows what that model takes and gives."""
    done = cli("models")
    assert done.stdout == "".join(f"{model:<8}  1  READY\n" for model in MODELS)
    infos = [json.loads(line) for line in cli("models", "--json").stdout.splitlines()]
    assert [info["name"] for info in infos] == MODELS
    lines = cli("models", "minilm").stdout.splitlines()
    assert lines[0] == "minilm (python), versions 1"
    assert re.fullmatch(r"input +text_input +BYTES +\[-1, 1\]", lines[1])
    assert re.fullmatch(r"output +num_input_tokens +UINT32 +\[-1, 1\]", lines[-1])
    metadata = json.loads(cli("models", "minilm", "--json").stdout)
    assert metadata["inputs"][0] == {"name": "text_input", "datatype": "BYTES", "shape": [-1, 1]}
    done = cli("models", "nobody")
    assert (done.stdout, done.returncode) == ("", 2)
    assert "models that are ready: chat, minilm, moods, reranker" in done.stderr


def test_wait_tells_what_it_waits_for(cli: Cli) -> None:
    """``wait`` ends when the server is ready, and names on stderr what is missing until then; it gives up in time."""
    done = cli("wait", "chat")
    assert (done.stdout, done.returncode) == ("", 0)
    assert re.fullmatch(r" +\d+\.\d s  ready\n", done.stderr)
    done = cli("wait", "--for", "0.3", to="127.0.0.1:1")
    first, *_, last = done.stderr.splitlines()
    assert re.fullmatch(r" +\d+\.\d s  no server answers at 127\.0\.0\.1:1 .*", first)
    assert last.startswith("error: not ready after 0.3 s: no server answers at 127.0.0.1:1 ")
    assert (done.stdout, done.returncode) == ("", 1)
    done = cli("wait", "nobody", "--for", "0.1")
    assert "has no model 'nobody'; it has: chat, minilm, moods, reranker" in done.stderr
    assert done.returncode == 1
    done = cli("wait", "--for", "-1")
    assert (done.stderr, done.returncode) == ("error: timeout_s is -1.0; give a number of seconds above 0\n", 2)


def test_waiting_goes_on_in_a_terminal() -> None:
    """In a terminal the time of what is waited for goes on, on one line, and the verdict stands on the next."""
    terminal = fathom_client("--url", "127.0.0.1:1", "wait", "--for", "1")
    try:
        shown = terminal.expect("error: not ready after 1 s: .*\r\n")
        assert shown.count("\n") == 2
        assert len(re.findall(r"\r +\d\.\d s  no server answers", shown)) > 2
        assert terminal.process.wait(PATIENCE_S) == 1
    finally:
        terminal.close()


def test_models_are_loaded_and_unloaded(cli: Cli, empty_handed: triton.Triton) -> None:
    """``load`` makes a model ready and ``unload`` takes it away; a model that fails to load says why."""
    url = empty_handed.url
    assert cli("models", to=url).stdout == "minilm  -  NOT LOADED\nmoods   -  NOT LOADED\n"
    done = cli("load", "minilm", to=url)
    assert (done.stdout, done.stderr, done.returncode) == ("minilm is loaded\n", "", 0)
    assert cli("embed", "one", to=url).returncode == 0
    done = cli("load", "moods", to=url)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "no mood at all" in done.stderr
    assert done.returncode == 2
    done = cli("load", "nobody", to=url)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "nobody" in done.stderr
    done = cli("unload", "minilm", to=url)
    assert (done.stdout, done.stderr, done.returncode) == ("minilm is unloaded\n", "", 0)
    assert cli("embed", "one", to=url).returncode == 2
    done = cli("status", to=url)
    assert re.search(r"minilm +1 +(UNLOADING|UNAVAILABLE) +- +- +- +-", done.stdout)
    assert re.search(r"moods +1 +UNAVAILABLE +- +- +- +- +.*no mood at all", done.stdout)
    assert done.returncode == 1


def test_server_that_forbids_it_says_how_to_allow_it(cli: Cli) -> None:
    """A server without explicit model control refuses ``load`` and ``unload`` with what to start it with."""
    for command in ("load", "unload"):
        done = cli(command, "minilm")
        assert (done.stdout, done.returncode, done.stderr.count("\n")) == ("", 2, 1)
        assert done.stderr.startswith("error: minilm: ")
        assert done.stderr.endswith("start the server with --model-control-mode=explicit\n")
    assert cli("embed", "one").returncode == 0
