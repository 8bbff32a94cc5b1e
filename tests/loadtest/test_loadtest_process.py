"""The cooperative process: however many users wait, each one's first response is waited for at once."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.client.grpc_server import Answering, serving

from fathom_loadtest.errors import LoadTestError

USERS = 14
"""More than the ten threads of gevent's pool as it is, fewer than the server's 16."""
SCRIPT = """
from fathom_loadtest.process import make_cooperative
make_cooperative()
import sys
import gevent
from fathom_client import Client

url, users = sys.argv[1], int(sys.argv[2])
pool = gevent.get_hub().threadpool
clients = [Client(url) for _ in range(users)]
readers = [gevent.spawn(lambda each: each.stream("chat", "hello").result().text, each) for each in clients]
while pool.size < min(users, pool.maxsize):
    gevent.sleep(0.01)
print(pool.size, flush=True)
sys.stdin.readline()
gevent.joinall(readers, raise_error=True)
print(*{reader.value for reader in readers})
"""


@dataclass(slots=True)
class Silent(Answering):
    """Takes every stream, and answers when it is told to."""

    speak: threading.Event = field(default_factory=threading.Event)

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:
        """Answer a generation, later."""
        self.speak.wait()
        yield from Answering.ModelStreamInfer(self, requests, context)


@pytest.mark.timeout(60)
def test_every_user_that_waits_has_a_thread_that_waits_for_its_connection() -> None:
    """With more users than gevent's own ten threads none waits for another's connection to speak first."""
    server = Silent("afar")
    with serving(server) as [url]:
        command = [sys.executable, "-c", SCRIPT, url, str(USERS)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            waiting = int(process.stdout.readline())
            server.speak.set()
            said, _ = process.communicate("go on\n")
        finally:
            server.speak.set()
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
    assert waiting >= USERS
    assert said.strip() == "from afar"


def test_a_process_that_has_loaded_grpc_is_refused() -> None:
    """Where gRPC was loaded before gevent, the error says what to start instead."""
    import grpc  # noqa: F401 - what is wrong here

    from fathom_loadtest.process import make_cooperative

    with pytest.raises(LoadTestError, match="in a process of its own"):
        make_cooperative()
