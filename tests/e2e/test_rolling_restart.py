"""Two servers restarted one after the other under load: callers of the balancing client notice nothing."""

import json
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.serving import FathomServe

from fathom_client import Client
from fathom_client.errors import ModelNotFoundError

STAND_INS = Path("tests/client/repository").resolve()
STREAMERS = 4
TOKENS = 64
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def two_models(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of an LLM, and of a model that answers in one response and loads at once."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "small").symlink_to(repository / "small")
    (folder / "minilm").symlink_to(STAND_INS / "minilm")
    return folder


class Load:
    """Callers that ask one thing after the other until they are told to stop; every failure is kept."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []

    def stream(self) -> None:
        """Ask for answers of a known length, and read them to their ends."""

        def ask() -> None:
            with self._client.stream("small", "Count: ", max_tokens=TOKENS, ignore_eos=True) as stream:
                tokens = stream.result().num_output_tokens
            if tokens != TOKENS:
                raise AssertionError(f"an answer of {tokens} tokens, and no error")

        self._repeat("stream", ask)

    def embed(self) -> None:
        """Ask for embeddings."""
        self._repeat("embed", lambda: self._client.embed("minilm", ["one text", "and another"]))

    def stop(self) -> None:
        """Let every caller finish what it asked last."""
        self._stopping.set()

    def wait_for_more(self, server: FathomServe | None = None) -> None:
        """Wait until both kinds of caller got further answers, also from this server, by its own counts."""
        before = Counter(self.answers)
        answered = 0 if server is None else answers_of(server)
        deadline = time.monotonic() + PATIENCE_S
        while not self.failures:
            if all(self.answers[kind] > before[kind] + 4 for kind in ("stream", "embed")) and (
                server is None or answers_of(server) > answered
            ):
                return
            assert time.monotonic() < deadline, f"no further answers: {before} then {self.answers}"
            time.sleep(0.05)

    def _repeat(self, kind: str, ask: object) -> None:
        assert callable(ask)
        while not self._stopping.is_set():
            try:
                ask()
            except Exception as error:
                with self._lock:
                    self.failures.append(f"{kind}: {error!r}")
            else:
                with self._lock:
                    self.answers[kind] += 1


def answers_of(server: FathomServe) -> int:
    """How many requests for the LLM a server has taken and finished."""
    return int(server.statistics("small")["inference_stats"]["success"].get("count", 0))


@pytest.mark.timeout(240, func_only=True)
def test_rolling_restart_fails_no_request(two_models: Path, tmp_path: Path) -> None:
    """Under streams and embeddings each server is stopped, started, and has callers again in turn: none fails."""
    with ExitStack() as stack:
        servers = [stack.enter_context(FathomServe(two_models, tmp_path / name)) for name in ("one", "two")]
        client = stack.enter_context(Client([server.url for server in servers]))
        load = Load(client)
        with ThreadPoolExecutor(STREAMERS + 1) as callers:
            for _ in range(STREAMERS):
                callers.submit(load.stream)
            callers.submit(load.embed)
            try:
                load.wait_for_more()
                for server in servers:
                    assert server.stop(signal.SIGTERM) == 0, server.stderr()[-3000:]
                    load.wait_for_more()
                    port = ("--grpc-port", str(server.grpc_port))
                    log = server.log.with_name(f"{server.log.name}-again")
                    load.wait_for_more(stack.enter_context(FathomServe(two_models, log, port)))
            finally:
                load.stop()
        assert Counter(load.failures) == {}


def test_request_to_a_server_that_unloads_its_models_goes_to_another(tmp_path: Path) -> None:
    """A Triton that stops says that its models are not there; a client with another server asks that one."""
    slow = json.dumps({"delay_s": 0.2}) + "\n" + "word " * 200
    with FathomServe(STAND_INS, tmp_path / "one") as one, FathomServe(STAND_INS, tmp_path / "two") as two:
        with Client(one.url) as waiting, waiting.stream("chat", slow) as stream:
            next(iter(stream))
            assert one.process is not None
            one.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + PATIENCE_S
            while "live models and" not in one.stderr():
                assert time.monotonic() < deadline, "the server does not unload"
                time.sleep(0.05)
            with (
                Client(one.url, retry=None) as client,
                pytest.raises(ModelNotFoundError, match="no available versions"),
            ):
                client.generate("chat", "hello")
            with Client([one.url, two.url], retry=None) as client:
                assert [client.generate("chat", "hello").text for _ in range(6)] == ["hello"] * 6
            assert two.statistics("chat")["inference_stats"]["success"]["count"] == 6
        assert one.process.wait(PATIENCE_S) == 0
