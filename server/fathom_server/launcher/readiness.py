"""The wait between starting Triton and its first request."""

import http.client
import json
import time
from typing import Any, Final

from fathom_server.errors import LaunchError
from fathom_server.launcher.ports import Ports
from fathom_server.launcher.process import Exited, SignalReceived, TritonProcess
from fathom_server.launcher.triton_log import ModelFailed, ModelLoaded, ModelLoading, say

POLL_S: Final = 0.2
ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (a key to look up, nothing is bound)


def get(host: str, port: int, path: str, timeout_s: float = 2.0) -> tuple[int, bytes]:
    """Status and body of a GET to this machine's Triton; status 0 if it does not answer."""
    connection = http.client.HTTPConnection(ANY_ADDRESS.get(host, host), port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
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

    Raises LaunchError naming the models that fail and why, or those that still load after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    begun: dict[str, float] = {}
    loaded: set[str] = set()
    failures: dict[str, str] = {}
    while True:
        now = time.monotonic()
        event = process.next_event(min(POLL_S, deadline - now))
        match event:
            case SignalReceived():
                return False
            case Exited(status):
                raise LaunchError(_why_it_ended(status, failures, process))
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
            raise LaunchError(
                f"not ready after {timeout_s:g} s (--ready-timeout-s); still loading: {waiting}. Look in Triton's log, "
                "or allow more time"
            )
        if event is None and loaded.issuperset(models) and get(host, ports.http, "/v2/health/ready")[0] == 200:
            return True


def decoupled_models(host: str, ports: Ports, models: tuple[str, ...]) -> frozenset[str]:
    """Models whose requests Triton does not count as in flight: the decoupled ones that are no ensembles.

    One whose config cannot be had is taken for decoupled.
    """
    decoupled = set()
    for name in models:
        status, body = get(host, ports.http, f"/v2/models/{name}/config")
        config: dict[str, Any] = (
            json.loads(body) if status == 200 else {"model_transaction_policy": {"decoupled": True}}
        )
        if config.get("model_transaction_policy", {}).get("decoupled") and config.get("platform") != "ensemble":
            decoupled.add(name)
    return frozenset(decoupled)


def _why_it_ended(status: int, failures: dict[str, str], process: TritonProcess) -> str:
    if failures:
        return "; ".join(f"model {name!r} cannot be loaded: {reason}" for name, reason in failures.items())
    last = "; ".join(process.errors) or "its log gives no reason"
    return f"Triton ended with status {status} before it was ready: {last}"
