"""API keys: where they come from, who is let in, and that they are never shown."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.gateway_process import GatewayProcess

from fathom_server.errors import SettingsError
from fathom_server.gateway.edge.keys import MAX_FILE_BYTES, RECHECK_S, KeyStore, read_keys

ALICE, BOB = "sk-alice-0123456789", "sk-bob:with:colons"
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# who may ask\nalice:{ALICE}\n\n  bob : {BOB}  \n")
    return path


@pytest.fixture(scope="module")
def locked(start_gateway: Callable[..., GatewayProcess], key_file: Path) -> GatewayProcess:
    """A gateway that asks for keys."""
    return start_gateway(keys=str(key_file))


def test_a_file_gives_a_key_a_line_with_or_without_a_name(tmp_path: Path) -> None:
    """Names stand before the first colon; a key alone is named by its hash, so that its place does not matter."""
    path = tmp_path / "keys"
    path.write_text(f"# comment\nalice:{ALICE}\n\n  bob : {BOB}  \nsk-nameless\n")
    ring = read_keys(path)
    assert [ring.name_of(key.encode()) for key in (ALICE, BOB, "sk-nameless")] == ["alice", "bob", "key-5d08e631"]
    path.write_text("sk-nameless\n")
    assert read_keys(path).name_of(b"sk-nameless") == "key-5d08e631"


def test_a_folder_gives_the_keys_of_its_files_as_kubernetes_mounts_a_secret(tmp_path: Path) -> None:
    """Files behind links to a hidden folder of the secret's present version are read, and the hidden folder is not."""
    version = tmp_path / "..2026_11_21"
    version.mkdir()
    (version / "alice").write_text(ALICE)
    (version / "more").write_text(f"bob:{BOB}\ncarol:sk-carol-1\n")
    (tmp_path / "..data").symlink_to(version, target_is_directory=True)
    for name in ("alice", "more"):
        (tmp_path / name).symlink_to(Path("..data") / name)
    assert [key.name for key in read_keys(tmp_path).keys] == ["alice", "bob", "carol"]


def test_only_the_whole_key_is_known(key_file: Path) -> None:
    """Neither a part of a key, nor one with something added, nor nothing at all is a key."""
    ring = read_keys(key_file)
    for wrong in ("", ALICE[:-1], ALICE + "x", f"alice:{ALICE}", ALICE.upper(), "alice"):
        assert ring.name_of(wrong.encode()) is None


def test_memory_holds_hashes_and_no_key(key_file: Path) -> None:
    """What the store keeps does not contain the keys, and printing it shows not even their hashes."""
    ring = KeyStore(key_file).ring
    assert all(len(key.digest) == 32 and ALICE.encode() not in key.digest for key in ring.keys)
    assert "digest" not in repr(ring)
    assert ALICE not in repr(ring)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "holds no API key"),
        (b"# nothing\n\n", "holds no API key"),
        (b"alice:sk-alice-1\nalice:sk-alice-2\n", "line 2: the name 'alice' was given in .*line 1"),
        (b"alice:sk-secret-1\nbob:sk-secret-1\n", "line 2: the key 'bob' is that of .*line 1"),
        (b"sk-secret-1\nsk-secret-1\n", "line 2: the name 'key-"),
        (b"alice:short\n", "line 1: a key has at least 8 characters"),
        (b"alice:sk secret one\n", "line 1: a key has at least 8 characters and no space"),
        (b"alice:\n", "line 1: a key has"),
        (b"al ice:sk-secret-1\n", "line 1: what stands before the colon is no name"),
        (b":sk-secret-1\n", "line 1: what stands before the colon is no name"),
        (b"anonymous:sk-secret-1\n", "not anonymous or unknown"),
        ("ålice:sk-secret-1\n".encode(), "line 1: a name or key has a character that is not ASCII"),
        (b"alice:sk-secret-1\n" * (MAX_FILE_BYTES // 16), "is larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_line_without_showing_a_key(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    """The error names file and line and what to do, and no part of a key."""
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=fault) as caught:
        read_keys(path)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_keys_that_cannot_be_read_end_the_start_with_one_line(tmp_path: Path) -> None:
    """A missing file is the caller's fault: status 2, one line, no traceback, and nothing listens."""
    command = [sys.executable, "-m", "fathom_server.gateway", "--keys", str(tmp_path / "missing"), "--port", "65535"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: API keys cannot be read from {tmp_path / 'missing'} (No such file or directory); "
        "check the path and who may read it\n"
    )


def test_a_changed_file_is_seen_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A key taken out is refused at the next look; a file that is half written locks nobody out, and is logged once."""
    path, now = tmp_path / "keys", [0.0]
    path.write_text(f"alice:{ALICE}\nbob:{BOB}\n")
    store = KeyStore(path, clock=lambda: now[0])
    path.write_text(f"bob:{BOB}\ncarol:sk-carol-1\n")
    assert store.ring.name_of(ALICE.encode()) == "alice"
    now[0] += RECHECK_S
    assert store.ring.name_of(ALICE.encode()) is None
    assert store.ring.name_of(b"sk-carol-1") == "carol"
    assert "added: carol; removed: alice" in caplog.text
    path.write_text("bob:")
    for _ in range(3):
        now[0] += RECHECK_S
        assert store.ring.name_of(BOB.encode()) == "bob"
    path.unlink()
    now[0] += RECHECK_S
    assert store.ring.name_of(BOB.encode()) == "bob"
    assert caplog.text.count("the API keys stay as they were") == 2
    assert "sk-" not in caplog.text


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer wrong-key", f"Basic {ALICE}", ALICE])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/embeddings", "/metrics", "/openapi.json", "/no/such/path"])
def test_without_a_right_key_nothing_but_health_is_shown(locked: GatewayProcess, path: str, header: str | None) -> None:
    """No key and a wrong one are refused in OpenAI's form, on every path, without repeating what was sent."""
    method = "POST" if path == "/v1/embeddings" else "GET"
    answer = locked.ask(method, path, headers={} if header is None else {"Authorization": header})
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.error["type"] == "authentication_error"
    assert answer.error["code"] == ("missing_api_key" if header is None else "invalid_api_key")
    assert b"wrong-key" not in answer.body
    assert ALICE.encode() not in answer.body


def test_each_key_is_let_in_and_probes_need_none(locked: GatewayProcess) -> None:
    """Any of the keys opens the API, whatever the case of the scheme; probes ask without."""
    for key in (ALICE, BOB):
        assert locked.ask("POST", "/v1/embeddings", {"model": "minilm", "input": "a"}, key=key).status == 200
    assert locked.ask("GET", "/metrics", headers={"Authorization": f"bearer {BOB}"}).status == 200
    assert locked.ask("GET", "/health/live").status == 200
    assert locked.ask("GET", "/health/ready").status == 200


def test_metrics_and_log_have_the_names_of_keys_and_never_a_key(locked: GatewayProcess) -> None:
    """Who asked is seen by name; no key is to be found in either, whether it was right or wrong."""
    locked.ask("POST", "/v1/embeddings", {"model": "minilm", "input": "a"}, key=ALICE)
    locked.ask("POST", "/v1/embeddings", {"model": "minilm", "input": "a"}, key="sk-not-a-key")
    text = locked.ask("GET", "/metrics", key=BOB).body.decode()
    locked.ask("GET", "/nowhere", headers={"X-Request-ID": "last"})
    locked.logged("last")
    log = locked.log()
    assert 'key="alice"' in text
    assert {"alice", "unknown"} <= {line.get("key") for line in log}
    for secret in (ALICE, BOB, "sk-not-a-key"):
        assert secret not in text
        assert secret not in str(log)
    assert locked.metric("fathom_gateway_rejected_total", key=BOB, reason="key") > 0


def test_a_revoked_key_is_refused_by_a_gateway_that_runs(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    """Taking a line out of the file is enough; the gateway needs no signal and no restart."""
    path = tmp_path / "keys"
    path.write_text(f"alice:{ALICE}\nbob:{BOB}\n")
    gateway = start_gateway(keys=str(path))
    assert gateway.ask("GET", "/metrics", key=ALICE).status == 200
    path.write_text(f"bob:{BOB}\n")
    deadline = time.monotonic() + PATIENCE_S
    while gateway.ask("GET", "/metrics", key=ALICE).status == 200:
        assert time.monotonic() < deadline, "the key was never revoked"
        time.sleep(0.1)
    assert gateway.ask("GET", "/metrics", key=ALICE).status == 401
    assert gateway.ask("GET", "/metrics", key=BOB).status == 200
