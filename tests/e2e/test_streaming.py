"""Streamed text is the whole text, for every Unicode plane, and never shows half a character or half a stop string."""

import json
import urllib.request

import pytest
from tests.e2e.reciter import START, planes_text
from tests.serving import FathomServe

from fathom_client import Client

TEXT = planes_text()


def test_every_plane_streams_whole(client: Client) -> None:
    """Characters of all 17 planes, each cut in the middle by the tokens, come whole in every piece."""
    with client.stream("reciter", START) as stream:
        pieces = [chunk.text for chunk in stream]
        assert stream.result().finish_reason == "stop"
    assert "".join(pieces) == TEXT
    assert all(piece == "" or piece in TEXT for piece in pieces)
    assert client.generate("reciter", START).text == TEXT


def test_answer_cut_inside_a_character_leaves_it_out(client: Client) -> None:
    """Where max_tokens ends an answer in the middle of a character, the character is not shown, in part or replaced."""
    for tokens in range(1, 9):
        whole = client.generate("reciter", START, max_tokens=tokens)
        assert (whole.text, whole.finish_reason) == (TEXT[: tokens // 2], "length")
        with client.stream("reciter", START, max_tokens=tokens) as stream:
            assert "".join(chunk.text for chunk in stream) == whole.text


def test_stop_strings_end_the_answer_unseen(client: Client) -> None:
    """A stop string over several tokens ends the answer before it, streamed and whole alike."""
    stop = TEXT[5:8]
    whole = client.generate("reciter", START, stop=["never", stop])
    assert (whole.text, whole.finish_reason) == (TEXT[:5], "stop")
    with client.stream("reciter", START, stop=["never", stop]) as stream:
        assert "".join(chunk.text for chunk in stream) == TEXT[:5]
    almost = client.generate("reciter", START, stop=[TEXT[5:7] + "no"])
    assert almost.text == TEXT


@pytest.mark.parametrize("seed", range(4))
def test_random_answers_stream_as_whole(client: Client, seed: int) -> None:
    """Hot sampling makes bytes that are no text: the stream still equals the whole answer of the same seed."""
    options = {"temperature": 5.0, "seed": seed, "max_tokens": 200, "ignore_eos": True}
    whole = client.generate("chat", "anything", **options)
    with client.stream("chat", "anything", **options) as stream:
        chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [token for chunk in chunks for token in chunk.token_ids] == [*whole.token_ids]
    assert sum(chunk.num_output_tokens for chunk in chunks) == whole.num_output_tokens == 200


def test_ensemble_answers_as_the_engine(client: Client) -> None:
    """Through chat_ensemble, with its own tokenizer model, the same conversation gives the same answer."""
    messages = [{"role": "user", "content": "What is 23 + 45?"}]
    direct = client.chat("chat", messages, max_tokens=40)
    with client.stream_chat("chat_ensemble", messages, max_tokens=40) as stream:
        assert "".join(chunk.text for chunk in stream) == direct.text
    text = client.generate("chat", "Copy: one two", max_tokens=12)
    assert client.generate("chat_ensemble", "Copy: one two", max_tokens=12).text == text.text


def test_http_generate_endpoints_work(server: FathomServe, client: Client) -> None:
    """Triton's own generate and generate_stream give the same text over HTTP, as JSON and as server-sent events."""
    body = {"messages": json.dumps([{"role": "user", "content": "What is 23 + 45?"}]), "max_tokens": 40}
    expected = client.chat("chat", json.loads(body["messages"]), max_tokens=40).text
    whole = json.loads(_post(server, "generate", body))
    assert whole["text_output"] == expected
    assert "finish_reason" not in whole
    events = _post(server, "generate_stream", {**body, "stream": True, "return_finish_reason": True})
    rows = [json.loads(line.removeprefix("data: ")) for line in events.splitlines() if line.startswith("data: ")]
    assert "".join(row["text_output"] for row in rows) == expected
    assert rows[-1]["finish_reason"] == "stop"


def test_prompt_can_stand_before_the_answer(server: FathomServe) -> None:
    """With exclude_input_in_output false the answer begins with the prompt, as in TensorRT-LLM and vLLM."""
    body = {"text_input": "Copy: one", "max_tokens": 4, "exclude_input_in_output": False}
    assert json.loads(_post(server, "generate", body))["text_output"].startswith("Copy: one")


def _post(server: FathomServe, endpoint: str, body: dict) -> str:
    url = f"http://127.0.0.1:{server.http_port}/v2/models/chat/{endpoint}"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read().decode()
