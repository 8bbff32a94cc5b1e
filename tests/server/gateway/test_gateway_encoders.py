"""Embeddings and rankings on their way: the caller's request id goes along, and who hangs up is not computed for."""

import http.client
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from tests.gateway_process import GatewayProcess
from tests.serving import FathomServe

BATCH = 8
"""What the stand-ins take at once."""
BATCHES = 40
PATHS = {"/v1/embeddings": "minilm", "/v1/rerank": "reranker"}


def body(path: str, texts: list[str]) -> dict[str, Any]:
    """A request for these texts."""
    fields = {"input": texts} if path == "/v1/embeddings" else {"query": "red", "documents": texts}
    return {"model": PATHS[path], **fields}


def orders(file: Path, **more: Any) -> str:
    """A text that tells the stand-in to note the request's id."""
    return json.dumps({"asked": str(file), **more})


def asked(file: Path) -> list[str]:
    """The ids of the requests that the model has begun to compute."""
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def pending(triton: FathomServe, model: str) -> int:
    """Requests that wait for the model in Triton."""
    _, page = triton.get("/metrics", triton.metrics_port)
    waiting = re.findall(
        rf'^nv_inference_pending_request_count{{model="{model}".*}} (\d+)$', page.decode(), re.MULTILINE
    )
    return sum(map(int, waiting))


@pytest.mark.parametrize("path", PATHS)
def test_the_callers_request_id_reaches_the_model(gateway: GatewayProcess, tmp_path: Path, path: str) -> None:
    """One request has the very id; of several, each begins with it and ends with its first text's number."""
    one, several = tmp_path / "one", tmp_path / "several"
    assert gateway.ask("POST", path, body(path, [orders(one)]), {"x-request-id": "my-id"}).status == 200
    assert asked(one) == ["my-id"]
    texts = [orders(several), *["a"] * (BATCH - 1)] * 3
    assert gateway.ask("POST", path, body(path, texts), {"x-request-id": "my-id"}).status == 200
    assert sorted(asked(several)) == ["my-id-0", "my-id-16", "my-id-8"]


@pytest.mark.parametrize("path", PATHS)
def test_who_hangs_up_is_not_computed_for(
    gateway: GatewayProcess, triton: FathomServe, tmp_path: Path, path: str
) -> None:
    """Batches on their way are cancelled and the others never sent: soon nothing waits, and the model is others'."""
    file, model = tmp_path / "asked", PATHS[path]
    texts = [orders(file, delay_s=0.3), *["a"] * (BATCH - 1)] * BATCHES
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    headers = {"Content-Type": "application/json", "x-request-id": f"left-{model}"}
    connection.request("POST", path, json.dumps(body(path, texts)), headers)
    while not asked(file):
        time.sleep(0.01)
    connection.close()
    assert gateway.logged(f"left-{model}")["status"] == 499
    assert gateway.ask("POST", path, body(path, ["a red house"])).status == 200
    while pending(triton, model):
        time.sleep(0.02)
    assert len(asked(file)) < BATCHES / 2
