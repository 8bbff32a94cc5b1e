"""The gateway's OpenAPI document is true: schemathesis asks what it allows and forbids, and checks the answers."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.gateway_process import GatewayProcess

KEY = "sk-schemathesis-0123"
HOOKS = "tests.server.gateway.schemathesis_hooks"


@pytest.fixture(scope="module")
def judged(start_gateway: Callable[..., GatewayProcess], tmp_path_factory: pytest.TempPathFactory) -> GatewayProcess:
    """A gateway that asks for a key, so that leaving it out is judged, too."""
    keys: Path = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"judge:{KEY}\n")
    return start_gateway(keys=str(keys), request_timeout_s=20)


def test_answers_are_those_of_the_document(judged: GatewayProcess, tmp_path: Path) -> None:
    """What the schemas allow and what they forbid gets a documented status, media type and body, and never a 500.

    Whether an allowed body is served is left out: a schema cannot say which models there are and what they can do.
    """
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"http://127.0.0.1:{judged.port}/openapi.json"),
        *("--header", f"Authorization: Bearer {KEY}", "--exclude-checks", "positive_data_acceptance"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "40", "--generation-deterministic"),
        *("--request-timeout", "30", "--suppress-health-check", "all", "--no-color"),
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Test cases:" in done.stdout
    assert judged.metric("fathom_gateway_requests_total", key=KEY, route="/v1/embeddings", status="200") > 0
    assert judged.metric("fathom_gateway_requests_total", key=KEY, route="/v1/chat/completions", status="200") > 0
    assert [line for line in judged.log() if "traceback" in line] == []


def test_the_document_names_each_endpoint_and_its_errors(judged: GatewayProcess) -> None:
    """Endpoints of models say which refusals they give, all of them in OpenAI's form and none in FastAPI's."""
    document = judged.ask("GET", "/openapi.json", key=KEY).json()
    paths = document["paths"]
    endpoints = {"/v1/embeddings", "/v1/rerank", "/v1/chat/completions", "/v1/completions", "/v1/models"}
    assert {*endpoints, "/health/live", "/health/ready", "/metrics"} <= paths.keys()
    for path, operations in paths.items():
        for method, operation in operations.items():
            statuses = operation["responses"].keys()
            assert "422" not in statuses, path
            assert operation.get("security") == (None if path.startswith("/health/") else [{"bearer": []}])
            if method == "post":
                assert {"400", "401", "404", "408", "413", "415", "429", "500", "503", "504"} <= statuses, path
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert document["components"]["schemas"]["ErrorDetail"]["required"] == ["message", "type", "param", "code"]
