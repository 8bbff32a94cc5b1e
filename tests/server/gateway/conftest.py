"""Gateways in front of one real Triton a session, which serves stand-ins for an LLM and for encoders."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.gateway_process import GatewayProcess
from tests.serving import FathomServe

STAND_INS = Path("tests/client/repository").resolve()


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    """The Triton that all gateways ask."""
    with FathomServe(STAND_INS, tmp_path_factory.mktemp("gateway-triton")) as server:
        yield server


@pytest.fixture(scope="session")
def start_gateway(
    triton: FathomServe, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., GatewayProcess]]:
    """Start a gateway with settings of its own; it runs to the session's end unless the test stops it."""
    with ExitStack() as stack:
        started: list[GatewayProcess] = []

        def start(**settings: Any) -> GatewayProcess:
            gateway = GatewayProcess(triton.url, tmp_path_factory.mktemp("gateway"), settings)
            started.append(stack.enter_context(gateway))
            return gateway

        yield start
        for gateway in started:  # all at once, so that they end together
            gateway.ask_to_stop()


@pytest.fixture(scope="session")
def gateway(start_gateway: Callable[..., GatewayProcess]) -> GatewayProcess:
    """A gateway as it is without settings."""
    return start_gateway()
