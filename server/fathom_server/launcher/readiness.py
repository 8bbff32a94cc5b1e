"""The wait between starting Triton and its first request."""

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fathom_server.errors import NotReadyError
from fathom_server.launcher.ports import Ports
from fathom_server.launcher.process import Exited, SignalReceived, StubEnded, TritonProcess
from fathom_server.launcher.stub_watch import stubs_of, unburied_stubs
from fathom_server.launcher.triton_log import ModelFailed, ModelLoaded, ModelLoading, say

POLL_S: Final = 0.2
LAST_POLL_S: Final = 0.02
"""The same once every model is loaded: Triton opens its ports within a moment."""
SEARCH_S: Final = 1.0
DEAD_S: Final = 5.0
"""How long Triton may leave a model's process unburied that ended while it loaded, before it is known to hang: it waits
for ever for one that is killed, or that ends before it can say why."""
TIMEOUT_S: Final = 2.0
_TOKENIZER_FILES: Final = "*/fathom_text.py"
"""What fathom-export puts into a tokenizer model's versions; its requests take milliseconds."""
ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (a key to look up, nothing is bound)


def get(
    host: str, port: int, path: str, headers: Mapping[str, str] | None = None, *, is_encrypted: bool = False
) -> tuple[int, bytes]:
    """Status and body of a GET to a server of ours on this machine; status 0 if it does not answer."""
    host = ANY_ADDRESS.get(host, host)
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    if is_encrypted:  # by a certificate of some name; it is our own process that we ask, and no secret goes there
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", path, headers={"Connection": "close", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def wait_until_ready(
    process: TritonProcess, host: str, ports: Ports, models: tuple[str, ...], timeout_s: float
) -> bool:
    """Wait until every model is ready, saying what loads; False if a stop was asked for meanwhile.

    Raises NotReadyError naming the models that fail and why, or those that still load after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    begun: dict[str, float] = {}
    loaded: set[str] = set()
    failures: dict[str, str] = {}
    dead: dict[int, float] = {}
    next_search = 0.0
    while True:
        now = time.monotonic()
        if now >= next_search:
            next_search = now + SEARCH_S
            dead = {pid: dead.get(pid, now) for pid in unburied_stubs(process.triton_pid)}
            if any(now - since >= DEAD_S for since in dead.values()):
                raise NotReadyError(_who_died(process, [name for name in begun if name not in loaded]))
        poll_s = LAST_POLL_S if loaded.issuperset(models) else POLL_S
        event = process.next_event(min(poll_s, deadline - now))
        match event:
            case SignalReceived():
                return False
            case Exited(status):
                raise NotReadyError(_why_it_ended(status, failures, process))
            case StubEnded():  # Triton calls its model ready, so it has loaded all; who waits for the end deals with it
                process.post(event)
                return True
            case ModelFailed(name, reason):
                failures.setdefault(name, reason)
            case ModelLoading(name):
                begun.setdefault(name, now)
            case ModelLoaded(name):
                loaded.add(name)
                say(f"{name} is loaded ({now - begun.get(name, now):.1f} s; {len(loaded)} of {len(models)})")
            case _:
                pass
        if time.monotonic() >= deadline:
            waiting = ", ".join(name for name in models if name not in loaded) or "none, but Triton is not ready"
            raise NotReadyError(
                f"not ready after {timeout_s:g} s (--ready-timeout-s); still loading: {waiting}. Look in Triton's log, "
                "or allow more time"
            )
        if event is None and loaded.issuperset(models) and get(host, ports.http, "/v2/health/ready")[0] == 200:
            return True


@dataclass(frozen=True, slots=True)
class ServedModels:
    """Which requests can be seen to be under way during a stop.

    ``decoupled``: models whose requests Triton does not count as in flight, the decoupled ones that are no ensembles.
    ``opaque``: Python models of others, whose requests nobody counts until Triton has closed HTTP.
    """

    names: tuple[str, ...]
    decoupled: frozenset[str]
    opaque: frozenset[str]


def served_models(
    host: str, ports: Ports, repository: Path, names: tuple[str, ...], headers: Mapping[str, str]
) -> ServedModels:
    """Ask Triton of each model; one whose config cannot be had is taken for decoupled."""
    decoupled, opaque = set(), set()
    for name in names:
        status, body = get(host, ports.http, f"/v2/models/{name}/config", headers)
        config: dict[str, Any] = (
            json.loads(body) if status == 200 else {"model_transaction_policy": {"decoupled": True}}
        )
        if config.get("platform") == "ensemble":
            continue
        if config.get("model_transaction_policy", {}).get("decoupled"):
            decoupled.add(name)
        elif config.get("backend") == "python" and not any((repository / name).glob(_TOKENIZER_FILES)):
            opaque.add(name)
    return ServedModels(names, frozenset(decoupled), frozenset(opaque))


def _who_died(process: TritonProcess, loading: list[str]) -> str:
    alive = stubs_of(process.triton_pid).values()
    names = ", ".join(repr(name) for name in loading if name not in alive)
    return (
        f"the process of model {names} ended while it loaded: it was killed, as when memory runs out, or a file is "
        "missing, as after a copy that was broken off; its last lines in the log may say which"
    )


def _why_it_ended(status: int, failures: dict[str, str], process: TritonProcess) -> str:
    if failures:
        return "; ".join(f"model {name!r} cannot be loaded: {reason}" for name, reason in failures.items())
    last = "; ".join(process.errors) or "its log gives no reason"
    return f"Triton ended with status {status} before it was ready: {last}"
