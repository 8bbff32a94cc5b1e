"""A repository of ``engine = "vllm"`` on a real Triton: our client, the gateway and a load test, none of them changed.

vLLM itself needs GPUs. In its place stands a Python-based backend of its name, tensors, JSON and errors
(``vllm_backend/model.py``), which recites prompts.
"""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.export.vllm_installation import tritonserver_with_vllm
from tests.serving import FathomServe

from fathom_client import Client
from fathom_client.errors import (
    DeadlineExceededError,
    FathomError,
    InvalidRequestError,
    ServerUnavailableError,
)
from fathom_export.cli import main

SMALL = Path("examples/models/small").resolve()
PROMPT = "one two three four five six seven"


class Deployment:
    """The server, and what vLLM's stand-in noted of each request."""

    def __init__(self, server: FathomServe, record: Path) -> None:
        self.server = server
        self._record = record

    def asked(self, request_id: str) -> dict[str, Any]:
        """The request of this id as it reached vLLM, once it has ended there."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for line in self._record.read_text().splitlines() if self._record.exists() else ():
                note: dict[str, Any] = json.loads(line)
                if note["id"] == request_id:
                    return note
            time.sleep(0.02)
        raise AssertionError(f"vLLM has not ended {request_id}")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Our smaller LLM, exported for vLLM and served with a gateway; at most eight answers at once."""
    folder = tmp_path_factory.mktemp("vllm")
    (folder / "bundle.toml").write_text(
        f'repository = "repository"\n[[models]]\nname = "chat"\nsource = "{SMALL}"\ntask = "generate"\n'
        'engine = "vllm"\n'
        "limits = { max_batch = 4, max_queue = 4, default_max_tokens = 16 }\nvllm = { tensor_parallel_size = 2 }\n"
    )
    assert main([str(folder / "bundle.toml")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FATHOM_TEST_VLLM_RECORD", str(folder / "record.jsonl"))
        program = tritonserver_with_vllm(folder / "installation")
        arguments = ("--tritonserver", str(program), "--openai-port")
        with FathomServe(folder / "repository", folder / "serve", arguments) as server:
            yield Deployment(server, folder / "record.jsonl")


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[Client]:
    """A client of the deployment."""
    with Client(deployment.server.url) as connected:
        yield connected


def test_a_text_comes_back_with_tokens_counts_and_reason(deployment: Deployment, client: Client) -> None:
    """Everything that the client asks of any LLM is there, token ids too, and vLLM got the text and the parameters."""
    ids = client.tokenize("chat", PROMPT).token_ids
    answer = client.generate("chat", PROMPT, max_tokens=64, request_id="whole")
    assert answer.text == PROMPT
    assert answer.token_ids == tuple(ids)
    assert (answer.finish_reason, answer.num_input_tokens, answer.num_output_tokens) == ("stop", len(ids), len(ids))
    asked = deployment.asked("whole")
    assert asked["prompt"] == PROMPT
    assert asked["parameters"]["max_tokens"] == 64
    assert asked["parameters"]["temperature"] == 0.0


def test_streams_add_up_to_the_whole(client: Client) -> None:
    """Pieces of text never split a character, and their ids are those of the whole answer."""
    prompt = "héllo 你好 🙂 done"
    with client.stream("chat", prompt, max_tokens=40) as stream:
        chunks = list(stream)
    whole = client.generate("chat", prompt, max_tokens=40)
    assert len(chunks) > 1
    assert "".join(chunk.text for chunk in chunks) == whole.text == prompt
    assert tuple(token for chunk in chunks for token in chunk.token_ids) == whole.token_ids
    assert chunks[-1].finish_reason == "stop"


def test_messages_go_through_the_models_own_template(deployment: Deployment, client: Client) -> None:
    """The very text that makes the template's tokens reaches vLLM."""
    messages = [{"role": "user", "content": "Sort: ship, lamp"}]
    answer = client.chat("chat", messages, max_tokens=5, request_id="messages")
    asked = deployment.asked("messages")
    assert asked["prompt"].endswith("assistant\n")
    assert "Sort: ship, lamp" in asked["prompt"]
    assert answer.num_input_tokens == client.count_tokens("chat", messages)


def test_token_ids_are_taken_where_a_text_gives_them(deployment: Deployment, client: Client) -> None:
    """Ids as the tokenizer makes them reach vLLM as their text; others, and strangers, are refused by name."""
    ids = client.tokenize("chat", PROMPT).token_ids
    assert client.generate("chat", ids, max_tokens=64, request_id="ids").token_ids == tuple(ids)
    assert deployment.asked("ids")["prompt"] == PROMPT
    letters = [token for letter in "one" for token in client.tokenize("chat", letter).token_ids]
    with pytest.raises(InvalidRequestError, match="vLLM's backend takes texts alone"):
        client.generate("chat", letters)
    with pytest.raises(InvalidRequestError, match="input_ids holds 1000000"):
        client.generate("chat", [1_000_000])


def test_sampling_reaches_vllm_under_its_names(deployment: Deployment, client: Client) -> None:
    """Every parameter that both know arrives with its value; a structure as the text that the backend parses."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    client.generate(
        "chat", PROMPT, max_tokens=9, min_tokens=2, temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, seed=11,
        repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=-0.5, stop=["zebra"], bad_words=["cat"],
        stop_token_ids=[3], include_stop_str_in_output=True, skip_special_tokens=False, json_schema=schema,
        request_id="sampling",
    )  # fmt: skip
    parameters = deployment.asked("sampling")["parameters"]
    structure = json.loads(parameters.pop("structured_outputs"))
    assert json.loads(structure.pop("json")) == schema
    assert not structure
    numbers = {
        "max_tokens": 9, "min_tokens": 2, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "seed": 11,
        "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5,
    }  # fmt: skip
    assert {name: parameters[name] for name in numbers} == pytest.approx(numbers, rel=1e-6)
    assert (parameters["stop"], parameters["bad_words"], parameters["stop_token_ids"]) == (["zebra"], ["cat"], [3])
    assert parameters["include_stop_str_in_output"] is True
    assert parameters["skip_special_tokens"] is False


def test_stop_strings_and_lengths_end_answers(client: Client) -> None:
    """The reasons are vLLM's; an answer without a length gets the spec's."""
    stopped = client.generate("chat", PROMPT, max_tokens=64, stop=["four"])
    assert (stopped.text.rstrip(), stopped.finish_reason) == ("one two three", "stop")
    long = client.generate("chat", PROMPT, ignore_eos=True)
    assert (long.num_output_tokens, long.finish_reason) == (16, "length")


def test_several_answers_are_requests_of_their_own(client: Client) -> None:
    """Each has a seed of its own and its index, streamed or not; alone the seed gives the same again."""
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 1.0, "seed": 2}
    whole = client.generate("chat", PROMPT, n=3, **options)
    assert len({choice.text for choice in whole.choices}) == 3
    assert whole.num_output_tokens == 18
    assert client.generate("chat", PROMPT, **options).text == whole.choices[0].text
    with client.stream("chat", PROMPT, n=3, **options) as stream:
        texts = ["", "", ""]
        for chunk in stream:
            texts[chunk.index] += chunk.text
    assert texts == [choice.text for choice in whole.choices]


def test_log_probabilities_are_those_of_vllm(client: Client) -> None:
    """The chosen token's, and the likeliest in their order; an answer that asks for none shows none."""
    answer = client.generate("chat", PROMPT, max_tokens=3, logprobs=2)
    listed = answer.choices[0].logprobs
    assert listed is not None
    assert [each.token_id for each in listed] == list(answer.token_ids)
    assert [each.logprob for each in listed] == [-1.0] * 3
    assert [[top.logprob for top in each.top] for each in listed] == [[-0.5, -1.0]] * 3
    assert client.generate("chat", PROMPT, max_tokens=3).choices[0].logprobs is None


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"temperature": 3.0}, "temperature is 3.0; this model is computed by vLLM, which takes 0 to 2"),
        ({"temperature": 1.0, "typical_p": 0.5}, "typical_p is 0.5"),
        ({"temperature": 1.0, "best_of": 2}, "best_of is 2"),
        ({"logit_bias": {5: 1.0}}, "logit_bias is set"),
        ({"prompt_logprobs": 1}, "prompt_logprobs is 1"),
        ({"priority": 3}, "priority is 3"),
        ({"max_tokens": 5000}, "max_tokens is 5000"),
        ({"stop_token_ids": [9_999_999]}, "stop_token_ids holds the token id 9999999"),
    ],
)
def test_what_vllm_cannot_do_is_refused_by_name(client: Client, options: dict[str, Any], part: str) -> None:
    """Parameter, value and reason; nothing is left out in silence."""
    with pytest.raises(InvalidRequestError) as caught:
        client.generate("chat", PROMPT, **options)
    assert part in str(caught.value)


def _wait_until_free(client: Client) -> None:
    """Wait until vLLM has let go of all answers: eight at once are taken again."""
    deadline = time.monotonic() + 30
    while True:
        try:
            assert client.generate("chat", PROMPT, n=8, temperature=1.0, max_tokens=1).num_output_tokens == 8
            return
        except ServerUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_one_answer_too_many_is_refused_at_once(client: Client) -> None:
    """With eight answers at vLLM a ninth is UNAVAILABLE, and a place that is free again is used."""
    with ThreadPoolExecutor(8) as pool:
        streams = [client.stream("chat", PROMPT, max_tokens=400, ignore_eos=True) for _ in range(8)]
        firsts = list(pool.map(lambda stream: next(iter(stream)), streams))
        assert all(first.token_ids for first in firsts)
        with pytest.raises(ServerUnavailableError, match="8 answers are with vLLM"):
            client.generate("chat", PROMPT, max_tokens=1)
        for stream in streams:
            stream.close()
    _wait_until_free(client)


def test_a_late_answer_ends_at_its_deadline(client: Client) -> None:
    """The error says how far it had come."""
    with pytest.raises(DeadlineExceededError, match="of at most 1000 tokens were ready"):
        client.generate("chat", PROMPT, max_tokens=1000, ignore_eos=True, timeout_s=0.3)


def test_a_sick_vllm_is_unavailable(client: Client) -> None:
    """Its backend's own refusal reaches the caller with the status that sends it elsewhere."""
    with pytest.raises(ServerUnavailableError, match="unhealthy vLLM engine"):
        client.generate("chat", "unhealthy", max_tokens=4)


def test_many_streams_at_once_stay_apart(client: Client) -> None:
    """Eight callers with prompts of their own each get their own back."""
    _wait_until_free(client)
    prompts = [f"{PROMPT} {number}" for number in ("ten", "sort", "the", "how", "what", "lamp", "ship", "apple")]

    def ask(prompt: str) -> str | FathomError:
        return client.generate("chat", prompt, max_tokens=100).text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, prompts)) == prompts


def test_the_gateway_needs_no_change(deployment: Deployment) -> None:
    """OpenAI's API answers a chat, streamed too, with usage."""
    url = f"http://127.0.0.1:{deployment.server.openai_port}/v1/chat/completions"
    body: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 30}

    def post(more: dict[str, Any]) -> str:
        data = json.dumps({**body, **more}).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return str(response.read().decode())

    whole = json.loads(post({}))
    content = whole["choices"][0]["message"]["content"]
    assert "hello" in content
    assert whole["usage"]["completion_tokens"] > 1
    lines = [line[6:] for line in post({"stream": True}).splitlines() if line.startswith("data: {")]
    pieces = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines]
    assert "".join(pieces) == content


def test_a_load_test_and_the_metrics_need_no_change(deployment: Deployment, tmp_path: Path) -> None:
    """``fathom-load`` reads the engine's gauges and counters as of any LLM, and its requests meet no error."""
    command = [sys.executable, "-m", "fathom_loadtest", "run", "--url", deployment.server.url, "--model", "chat"]
    command += ["--users", "2", "--duration-s", "2", "--input-tokens", "12", "--output-tokens", "8", "--ignore-eos"]
    command += ["--output", str(tmp_path / "report")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    status, body = deployment.server.get("/metrics", deployment.server.metrics_port)
    assert status == 200
    metrics = body.decode()
    assert 'fathom_num_requests_running{model="chat"}' in metrics
    assert "fathom_kv_cache_usage_perc" not in metrics  # nobody tells
    tokens = next(line for line in metrics.splitlines() if line.startswith("fathom_generation_tokens_total{"))
    assert float(tokens.split()[-1]) > 100
