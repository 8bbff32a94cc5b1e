"""A cascade asked by others than our client: plain HTTP, OpenAI's API, the load test."""

import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.cascade_deployment import EASY, HARD, ask
from tests.serving import FathomServe

from fathom_client import Client


def test_task_is_a_request_parameter(cascade_server: FathomServe) -> None:
    """A caller may say what kind of request it is; the word stays with the cascade, whose models know none."""
    connection = http.client.HTTPConnection("127.0.0.1", cascade_server.http_port, timeout=30)
    reasons = []
    for task in ("dates", "poems"):
        body = json.dumps({"messages": json.dumps(ask(EASY)), "max_tokens": 8, "task": task})
        connection.request("POST", "/v2/models/lonely/generate", body)
        response = connection.getresponse()
        given = json.loads(response.read())
        assert response.status == 200, given
        details = json.loads(given["cascade"])
        reasons.append((details["reason"], details["value"] is None))
    connection.close()
    assert reasons == [("large_unavailable", True), ("large_unavailable", False)]


def test_gateway_serves_a_cascade_as_any_llm(cascade_server: FathomServe, cascade_client: Client) -> None:
    """OpenAI's API gives a cascade's answers, whole and streamed, without knowing what it is."""
    alone = cascade_client.chat("large", ask(HARD), max_tokens=32)
    connection = http.client.HTTPConnection("127.0.0.1", cascade_server.openai_port, timeout=30)
    headers = {"Content-Type": "application/json"}
    body: dict[str, Any] = {"model": "chat", "messages": ask(HARD), "max_tokens": 32, "temperature": 0}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    given = json.loads(connection.getresponse().read())
    assert given["choices"][0]["message"]["content"] == alone.text
    assert given["usage"]["completion_tokens"] == alone.num_output_tokens
    connection.request("POST", "/v1/chat/completions", json.dumps({**body, "stream": True}), headers)
    events = [line[6:] for line in connection.getresponse().read().decode().splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    parts = [json.loads(event)["choices"] for event in events]
    assert "".join(choice[0]["delta"].get("content") or "" for choice in parts if choice) == alone.text
    connection.close()


def test_load_test_measures_a_cascade_as_any_llm(cascade_server: FathomServe, tmp_path: Path) -> None:
    """The load test streams from a cascade, counts its tokens and finds its server's metrics."""
    command = [sys.executable, "-m", "fathom_loadtest", "run", "--url", cascade_server.url, "--model", "chat"]
    command += ["--users", "4", "--requests", "12", "--input-tokens", "24", "--output-tokens", "16", "--ignore-eos"]
    command += ["--output", str(tmp_path), "--metrics-url", f"http://127.0.0.1:{cascade_server.metrics_port}/metrics"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (stage,) = json.loads((tmp_path / "report.json").read_text())["stages"]
    assert stage["figures"]["total_output_tokens"] == 12 * 16
