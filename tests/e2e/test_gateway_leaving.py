"""Whoever hangs up at the gateway frees the engine's slot, as the engine itself counts, and the next caller has it."""

import http.client
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from tests.e2e.test_leaving import wait_for
from tests.gateway_process import GatewayProcess
from tests.serving import FathomServe

from fathom_client.metric_names import GENERATION_TOKENS

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MOST_TOKENS: Final = 1900
LONG = {"model": "tight", "max_tokens": MOST_TOKENS, "ignore_eos": True}
ASKED = {CHAT: {"messages": [{"role": "user", "content": "hello"}]}, COMPLETIONS: {"prompt": "hello"}}


@pytest.fixture(scope="module")
def gateway(server: FathomServe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in front of an engine that has one slot and one place to wait."""
    with GatewayProcess(server.url, tmp_path_factory.mktemp("gateway")) as running:
        yield running


def ask(gateway: GatewayProcess, path: str, **fields: Any) -> http.client.HTTPConnection:
    """Send a request and do not wait for its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    body = json.dumps({**LONG, **ASKED[path], **fields})
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    return connection


def answered_tokens(connection: http.client.HTTPConnection) -> int:
    """Wait for the answer; how many tokens it has."""
    usage = json.loads(connection.getresponse().read())["usage"]
    connection.close()
    return int(usage["completion_tokens"])


def made_tokens(server: FathomServe) -> float:
    """Tokens that the model has made so far, from Triton's metrics."""
    _, body = server.get("/metrics", server.metrics_port)
    begin = f'{GENERATION_TOKENS}{{model="tight"}}'
    [line] = [line for line in body.decode().splitlines() if line.startswith(begin)]
    return float(line.rpartition(" ")[2])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_the_engine_runs_nothing_for_a_caller_who_has_hung_up(
    server: FathomServe, gateway: GatewayProcess, path: str, stream: bool
) -> None:
    """The engine's running requests fall to 0 before the answer's end, and its only slot serves the next caller."""
    wait_for(server, (0, 0))
    before = made_tokens(server)
    leaving = ask(gateway, path, stream=stream)
    wait_for(server, (1, 0))
    leaving.close()
    wait_for(server, (0, 0))
    assert made_tokens(server) - before < MOST_TOKENS
    assert answered_tokens(ask(gateway, path, stream=False, max_tokens=3)) == 3
    wait_for(server, (0, 0))


@pytest.mark.timeout(60)
def test_a_waiting_caller_who_hangs_up_gives_its_place_to_another(server: FathomServe, gateway: GatewayProcess) -> None:
    """A place in the queue is freed as a slot is: who comes next waits there, instead of being refused."""
    wait_for(server, (0, 0))
    running = ask(gateway, CHAT, stream=True)
    wait_for(server, (1, 0))
    waiting = ask(gateway, CHAT, stream=False)
    wait_for(server, (1, 1))
    refused = gateway.ask("POST", CHAT, {**LONG, **ASKED[CHAT]})
    assert (refused.status, refused.error["code"]) == (503, "overloaded")
    waiting.close()
    wait_for(server, (1, 0))
    following = ask(gateway, CHAT, stream=False, max_tokens=2)
    wait_for(server, (1, 1))
    running.close()
    assert answered_tokens(following) == 2
    wait_for(server, (0, 0))
