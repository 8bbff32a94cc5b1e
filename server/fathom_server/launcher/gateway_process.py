"""The gateway as a process beside Triton: started with it, outliving Triton's restarts, stopped with it."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final, Self

from fathom_server.errors import NotReadyError, SettingsError
from fathom_server.gateway.settings import GatewaySettings
from fathom_server.launcher.drain import KILL_MARGIN_S
from fathom_server.launcher.ports import Ports
from fathom_server.launcher.process import GUARDIAN, GatewayEnded
from fathom_server.launcher.readiness import ANY_ADDRESS, get
from fathom_server.launcher.settings import LaunchSettings
from fathom_server.launcher.triton_log import say

POLL_S: Final = 0.05
START_S: Final = 60.0
LAST_WORDS_S: Final = 1.0
"""What is left to the gateway to send on, at least, once Triton has given its last answer."""


class GatewayProcess:
    """One gateway; a context manager that leaves nothing behind, even where the launcher is killed.

    Raises SettingsError for a config file that is wrong, and where the gateway's packages are missing.
    """

    def __init__(self, settings: LaunchSettings, ports: Ports) -> None:
        missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
        if missing:
            raise SettingsError(
                f"--openai-port needs {' and '.join(missing)}; install them with pip install 'fathom-server[gateway]'"
            )
        config = GatewaySettings() if settings.openai_config is None else GatewaySettings.load(settings.openai_config)
        if settings.tls_cert is not None and config.target_ca is None:
            raise SettingsError(
                "--tls-cert encrypts Triton's gRPC, which the gateway asks: name who signed the certificate as "
                "target_ca (and a name in it as target_server_name) in --openai-config"
            )
        self._is_encrypted = config.tls_cert is not None
        self._settings = settings
        self._ports = ports
        self._post: Callable[[GatewayEnded], None] = lambda _: None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_stopping = True
        self._end()

    def ensure_running(self, post: Callable[[GatewayEnded], None]) -> None:
        """Start it unless it runs; its end, unless it was asked for, is ``post``ed."""
        self._post = post
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        # the guardian ends its group when the launcher is gone; this one has no files to remove
        guardian = [sys.executable, "-I", "-S", str(GUARDIAN), "", f"fathom_{secrets.token_hex(6)}_"]
        self._guardian = subprocess.Popen(guardian, stdin=subprocess.PIPE, process_group=0)
        self._process = subprocess.Popen(
            self._command(), stdin=subprocess.DEVNULL, stdout=2, process_group=self._guardian.pid
        )
        threading.Thread(target=self._await_exit, args=(self._process,), name="gateway-exit", daemon=True).start()

    def wait_until_listening(self) -> None:
        """Return when it answers; raises NotReadyError if it ends or does not."""
        deadline = time.monotonic() + START_S
        assert self._process is not None  # noqa: S101 (ensure_running comes first)
        while get(self._settings.host, self._port, "/health/live", is_encrypted=self._is_encrypted)[0] != 200:
            if (status := self._process.poll()) is not None:
                raise NotReadyError(f"the gateway ended with status {status} before it listened; its own lines say why")
            if time.monotonic() >= deadline:
                raise NotReadyError(f"the gateway does not answer on port {self._port} after {START_S:g} s")
            time.sleep(POLL_S)

    def terminate(self) -> None:
        """Ask it to take no new requests and to end when those that run have ended."""
        self._is_stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def finish(self, left_s: float) -> bool:
        """Wait for its end for what is left of a stop; whether every answer was sent to its end."""
        assert self._process is not None  # noqa: S101 (as above)
        try:
            is_whole = self._process.wait(max(left_s, LAST_WORDS_S)) == 0
        except subprocess.TimeoutExpired:
            is_whole = False
        if not is_whole:
            say("the gateway's last answers were cut off at the deadline")
        return is_whole

    @property
    def _port(self) -> int:
        assert self._ports.openai is not None  # noqa: S101 (a gateway is made where there is a port for it)
        return self._ports.openai

    def _command(self) -> list[str]:
        settings = self._settings
        host = ANY_ADDRESS.get(settings.host, settings.host)
        target = f"[{host}]:{self._ports.grpc}" if ":" in host else f"{host}:{self._ports.grpc}"
        command = [sys.executable, "-m", "fathom_server.gateway", "--target", target]
        command += ["--host", settings.host, "--port", str(self._port)]
        command += ["--drain-s", f"{max(settings.drain_s - KILL_MARGIN_S, settings.drain_s / 2):g}"]
        if settings.openai_config is not None:
            command += ["--config", str(settings.openai_config)]
        if settings.otlp_endpoint:
            command += ["--otlp-endpoint", settings.otlp_endpoint]
        return command

    def _await_exit(self, process: "subprocess.Popen[bytes]") -> None:
        status = process.wait()
        if not self._is_stopping:
            self._post(GatewayEnded(status))

    def _end(self) -> None:
        """End the whole group at once."""
        if self._guardian is None or self._process is None:
            return
        os.killpg(self._guardian.pid, signal.SIGKILL)  # the guardian is not yet waited for, so the group's id is ours
        self._process.wait()
        self._guardian.wait()
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()
        self._guardian = self._process = None
