"""Streams of the gateway: their bytes, their errors before and after the first token, and callers who hang up."""

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.gateway_process import GatewayProcess

PATIENCE_S = 20.0
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def prompt(text: str, **orders: Any) -> str:
    """A prompt that tells the stand-in how to behave."""
    return json.dumps(orders) + "\n" + text


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """A streamed chat's body."""
    return {"model": "chat", "messages": [{"role": "user", "content": text}], "stream": True, **fields}


def events(body: bytes) -> list[Any]:
    """The events of a stream: JSON, or the word DONE."""
    *lines, rest = body.split(b"\n\n")
    assert rest == b""
    return ["DONE" if line == b"data: [DONE]" else json.loads(line.removeprefix(b"data: ")) for line in lines]


def wait_for(path: Path) -> str:
    """What a file says once the stand-in has written it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.01)
    return path.read_text()


def test_a_chats_stream_is_as_openai_has_it(gateway: GatewayProcess) -> None:
    """Role, text in pieces, reason, usage, DONE; one identity throughout, and no cache on the way."""
    answer = gateway.ask(
        "POST", CHAT, chat("one two", stream_options={"include_usage": True}), {"x-request-id": "id-1"}
    )
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    *chunks, done = events(answer.body)
    assert done == "DONE"
    created = chunks[0]["created"]
    assert abs(created - time.time()) < 3600
    head = {"id": "chatcmpl-id-1", "created": created, "model": "chat", "object": "chat.completion.chunk"}

    def entry(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}

    expected = [
        entry({"role": "assistant", "content": "", "refusal": None}),
        entry({"content": "one "}),
        entry({"content": "two"}),
        entry({}, "stop"),
    ]
    usage = {"prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14}
    assert chunks == [
        *({**head, "choices": [each], "usage": None} for each in expected),
        {**head, "choices": [], "usage": usage},
    ]


def test_a_completions_stream_is_as_openai_has_it(gateway: GatewayProcess) -> None:
    """Text in pieces, the reason with the last, DONE; several prompts stream together with their own indices."""
    body = {"model": "chat", "prompt": ["a b", "c"], "echo": True, "stream": True}
    *chunks, done = events(gateway.ask("POST", COMPLETIONS, body).body)
    assert done == "DONE"
    entries = [entry for chunk in chunks for entry in chunk["choices"]]
    assert all(entry.keys() == {"index", "text", "logprobs", "finish_reason"} for entry in entries)
    of = [[(entry["text"], entry["finish_reason"]) for entry in entries if entry["index"] == index] for index in (0, 1)]
    assert of == [[("a ba ", None), ("b", "stop")], [("cc", "stop")]]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("INVALID_ARG", 400, "invalid_request_error"),
        ("UNAVAILABLE", 503, "server_error"),
        ("INTERNAL", 500, "server_error"),
    ],
)
def test_an_error_before_the_first_token_is_an_http_error(
    gateway: GatewayProcess, code: str, status: int, kind: str
) -> None:
    """What fails before anything was sent has its own status, streamed or not; faults tell no details."""
    for stream in (True, False):
        answer = gateway.ask("POST", CHAT, chat(prompt("a b", error=[code, "queue full: the reason"]), stream=stream))
        assert (answer.status, answer.error["type"]) == (status, kind)
        assert ("the reason" in answer.error["message"]) == (status != 500)
        assert ("retry-after" in answer.headers) == (status == 503)


def test_an_error_after_the_first_token_is_an_event(gateway: GatewayProcess) -> None:
    """A stream that fails ends with an error event, which the SDK raises, and without DONE."""
    body = chat(prompt("one two three", error=["INTERNAL", "a fault"], after=2), stream_options={"include_usage": True})
    answer = gateway.ask("POST", CHAT, body)
    assert answer.status == 200
    *chunks, last = events(answer.body)
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "one ", "two "]
    assert last.keys() == {"error"}
    assert last["error"]["type"] == "server_error"
    assert "a fault" not in last["error"]["message"]
    merged = {"model": "chat", "prompt": ["a " * 50, prompt("b c", error=["INTERNAL", "x"], after=1)], "stream": True}
    *_, last = events(gateway.ask("POST", COMPLETIONS, merged).body)
    assert last.keys() == {"error"}, "one prompt's fault ends the request"


def test_a_late_answer_says_so(start_gateway: Callable[..., GatewayProcess]) -> None:
    """The time limit of a whole answer: a status before the first token, an event after it."""
    hasty = start_gateway(request_timeout_s=0.4)
    slow = hasty.ask("POST", CHAT, chat(prompt("one two", delay_s=5), stream=False))
    assert (slow.status, slow.error["code"]) == (504, "deadline_exceeded")
    answer = hasty.ask("POST", CHAT, chat(prompt("one " * 200, delay_s=0.02)))
    *chunks, last = events(answer.body)
    assert len(chunks) > 1
    assert last["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_who_hangs_up_frees_the_model_at_once(gateway: GatewayProcess, tmp_path: Path, path: str, stream: bool) -> None:
    """A caller's closed connection cancels the request at the model, before its first token and after it."""
    started, marker = tmp_path / "started", tmp_path / "cancelled"
    text = prompt("word " * 400, delay_s=0.05, started=str(started), marker=str(marker))
    body = (
        chat(text, stream=stream)
        if path == CHAT
        else {"model": "chat", "prompt": text, "max_tokens": 9999, "stream": stream}
    )
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE_S)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    wait_for(started)
    if stream:
        assert connection.getresponse().read(6) == b"data: "
    connection.close()
    assert wait_for(marker).startswith("cancelled")


def test_every_prompt_of_a_caller_who_hangs_up_is_cancelled(gateway: GatewayProcess, tmp_path: Path) -> None:
    """The generations of all prompts of one request end with its connection."""
    markers = [tmp_path / f"cancelled-{index}" for index in range(3)]
    prompts = [prompt("word " * 400, delay_s=0.05, marker=str(marker)) for marker in markers]
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE_S)
    body = {"model": "chat", "prompt": prompts, "max_tokens": 9999, "stream": True}
    connection.request("POST", COMPLETIONS, json.dumps(body), {"Content-Type": "application/json"})
    assert connection.getresponse().read(6) == b"data: "
    connection.close()
    for marker in markers:
        assert wait_for(marker).startswith("cancelled")


def test_what_the_caller_is_goes_to_the_engine(gateway: GatewayProcess) -> None:
    """The request's id and the user, for whom the engine takes turns, reach the model with the sampling."""
    body = chat(prompt("", echo=True), stream=False, user="ann", seed=-1, top_k=-1, temperature=0.5)
    answer = gateway.ask("POST", CHAT, body, {"x-request-id": "my-id"})
    seen = json.loads(answer.json()["choices"][0]["message"]["content"])
    assert seen["id"] == "my-id"
    assert seen["parameters"] == {"client": "ann"}
    values = {name: tensor["values"] for name, tensor in seen["inputs"].items()}
    assert (values["seed"], values["top_k"], values["temperature"]) == ([2**64 - 1], [0], [0.5])
    default = gateway.ask("POST", CHAT, chat(prompt("", echo=True), stream=False))
    seen = json.loads(default.json()["choices"][0]["message"]["content"])
    assert seen["inputs"]["temperature"]["values"] == [1.0], "OpenAI's default"
    assert "client" not in seen["parameters"]


def test_a_model_is_asked_for_what_it_is_for(gateway: GatewayProcess) -> None:
    """An encoder takes no chats, and what it is for is told; the list says it of every model."""
    for path, body in ((CHAT, chat("x")), (COMPLETIONS, {"prompt": "x"})):
        answer = gateway.ask("POST", path, {**body, "model": "minilm"})
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        assert "is for embed" in answer.error["message"]
    models = gateway.ask("GET", "/v1/models").json()["data"]
    assert {model["id"]: model["task"] for model in models} == {
        "chat": "generate",
        "minilm": "embed",
        "moods": "classify",
        "reranker": "rerank",
    }


def test_a_dead_server_is_unavailable(tmp_path: Path) -> None:
    """Without a Triton the gateway lives, is not ready, and refuses each request with when to try again."""
    with GatewayProcess("127.0.0.1:9", tmp_path / "alone") as alone:
        assert alone.ask("GET", "/health/live").status == 200
        for method, path, body in (
            ("GET", "/health/ready", None),
            ("GET", "/v1/models", None),
            ("POST", CHAT, chat("x")),
            ("POST", COMPLETIONS, {"model": "chat", "prompt": "x"}),
        ):
            answer = alone.ask(method, path, body)
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert "127.0.0.1:9" not in answer.error["message"], "addresses within are nobody's business"
