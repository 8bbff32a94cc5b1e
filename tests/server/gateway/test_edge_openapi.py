"""The gateway's OpenAPI document is true: schemathesis asks what it allows and forbids, and checks the answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.gateway_process import GatewayProcess

KEY = "sk-schemathesis-0123"
HEADERS = {"Authorization": f"Bearer {KEY}"}

MODELS: Final = {"/v1/embeddings": "minilm", "/v1/rerank": "reranker"}
"""Any other endpoint of models is a language model's."""


@pytest.fixture(scope="module")
def judged(start_gateway: Callable[..., GatewayProcess], tmp_path_factory: pytest.TempPathFactory) -> GatewayProcess:
    """A gateway that asks for a key, so that leaving it out is judged, too."""
    keys: Path = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"judge:{KEY}\n")
    return start_gateway(keys=str(keys), request_timeout_s=20)


@pytest.fixture(scope="module")
def document(judged: GatewayProcess) -> Any:
    """The document as the gateway gives it."""
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{judged.port}/openapi.json", headers=HEADERS)


api = schemathesis.pytest.from_fixture("document")


@api.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_those_of_the_document(case: schemathesis.Case) -> None:
    """What the schemas allow and what they forbid gets a documented status, media type and body, and never a 500.

    Whether an allowed body is served is left out: a schema cannot say which models there are and what they can do.
    Half of the bodies get a model that is there.
    """
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(body["model"]) % 2 == 0:
        case.body = {**body, "model": MODELS.get(case.path, "chat")}
    case.call_and_validate(headers=HEADERS, excluded_checks=[positive_data_acceptance])


def test_the_document_names_each_endpoint_and_its_errors(document: Any) -> None:
    """Endpoints of models say which refusals they give, all of them in OpenAI's form and none in FastAPI's."""
    paths = document.raw_schema["paths"]
    assert {"/v1/embeddings", "/v1/rerank", "/health/live", "/health/ready", "/metrics"} <= paths.keys()
    for path, operations in paths.items():
        for method, operation in operations.items():
            statuses = operation["responses"].keys()
            assert "422" not in statuses, path
            if method == "post":
                assert {"400", "401", "404", "408", "413", "415", "429", "500", "503", "504"} <= statuses, path
                assert operation["security"] == [{"bearer": []}]
    schema = document.raw_schema["components"]["schemas"]
    assert "HTTPValidationError" not in schema
    assert schema["ErrorDetail"]["required"] == ["message", "type", "param", "code"]
