"""Small beside large on a real Triton: exported by a bundle, asked through client, gateway and load test."""

import asyncio
import http.client
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving import FathomServe

from fathom_client import (
    Client,
    DeadlineExceededError,
    Generation,
    InvalidRequestError,
    OverloadedError,
    protocol,
)
from fathom_server.cascade.cascade import Cascade
from fathom_server.cascade.evidence import TensorValues
from fathom_server.cascade.helpers import Helpers
from fathom_server.cascade.hook import SmallAnswer
from fathom_server.cascade.model_behind import ModelBehind
from fathom_server.cascade.question import Question
from fathom_server.cascade.settings import CascadeSettings

MODELS = Path("examples/models").resolve()
RERANKER = Path("tests/client/repository/reranker").resolve()

BUNDLE = """
repository = "repository"

[[models]]
name = "small"
source = "{models}/small"
task = "generate"

[[models]]
name = "large"
source = "{models}/large"
task = "generate"
precision = "int8"

[[models]]
name = "chat"
task = "generate"
engine = "cascade"
cascade = {{ small = "small", large = "large", signal = "min_logprob", threshold = -0.05 }}

[[models]]
name = "lonely"
task = "generate"
engine = "cascade"
cascade = {{ small = "small", large = "large", large_url = "127.0.0.1:1", signal = "min_logprob", threshold = 1.0 }}
router = {{ large_patterns = ["straight"], large_tasks = ["dates"] }}
limits = {{ max_requests = 2 }}
"""
EASY = "Tina: Rome\nHugo: Cairo\nWhere does Tina live?"
HARD = "Write 23/10/1972 in the form: day month year"
"""What the small model knows for certain, and what only the large one does."""
LONG: dict[str, Any] = {"max_tokens": 2000, "ignore_eos": True}


def ask(text: str) -> list[dict[str, Any]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def cascade_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    """Both LLMs, two cascades of them, a reranker, and a gateway."""
    folder = tmp_path_factory.mktemp("cascade")
    (folder / "bundle.toml").write_text(BUNDLE.format(models=MODELS))
    command = [sys.executable, "-m", "fathom_export.cli", str(folder / "bundle.toml"), "--quality", "off"]
    export = subprocess.run(command, capture_output=True, text=True, check=False)
    assert export.returncode == 0, export.stdout + export.stderr
    for unused in ("small_ensemble", "large_ensemble", "lonely_tokenizer"):
        shutil.rmtree(folder / "repository" / unused)
    shutil.copytree(RERANKER, folder / "repository" / "reranker")
    with FathomServe(folder / "repository", folder / "serve", ("--openai-port",)) as running:
        yield running


@pytest.fixture(scope="module")
def client(cascade_server: FathomServe) -> Iterator[Client]:
    """A client of it."""
    with Client(cascade_server.url) as connected:
        yield connected


def metrics(server: FathomServe) -> dict[str, float]:
    """Every sample of Fathom's, by name and labels in the order of their names."""
    status, body = server.get("/metrics", server.metrics_port)
    assert status == 200
    samples = {}
    for name, labels, value in re.findall(r"^(fathom_\w+)\{([^}]*)\} (\S+)$", body.decode(), re.MULTILINE):
        told = ",".join(f"{key}={label}" for key, label in sorted(re.findall(r'(\w+)="([^"]*)"', labels)))
        samples[f"{name}{{{told}}}"] = float(value)
    return samples


def wait_until_running(server: FathomServe, expected: dict[str, int]) -> None:
    """Wait until so many requests run in each model; the test's time limit ends a wait in vain."""
    wanted = {f"fathom_num_requests_running{{model={model}}}": float(count) for model, count in expected.items()}
    while not wanted.items() <= metrics(server).items():
        time.sleep(0.02)


def told(answer: Generation) -> dict[str, Any]:
    """What the cascade says of an answer."""
    assert answer.cascade is not None
    return dict(answer.cascade)


@pytest.mark.parametrize("streams", [True, False])
def test_trusted_answer_is_the_small_models(client: Client, *, streams: bool) -> None:
    """An answer whose every token was likely is the small model's own, and costs nothing of the large one."""
    alone = client.chat("small", ask(EASY), max_tokens=32)
    if streams:
        stream = client.stream_chat("chat", ask(EASY), max_tokens=32)
        chunks = list(stream)
        answer = stream.result()
        assert "".join(chunk.text for chunk in chunks) == alone.text
    else:
        answer = client.chat("chat", ask(EASY), max_tokens=32)
    assert (answer.text, answer.token_ids, answer.finish_reason) == (alone.text, alone.token_ids, "stop")
    details = told(answer)
    assert (details["answered_by"], details["reason"], details["signal"]) == ("small", "trusted", "min_logprob")
    assert details["value"] >= details["threshold"] == -0.05
    assert details["small"]["input_tokens"] == alone.num_input_tokens
    assert details["small"]["output_tokens"] == alone.num_output_tokens
    assert details["large"] == {"model": "large", "input_tokens": 0, "output_tokens": 0}


@pytest.mark.parametrize("streams", [True, False])
def test_doubtful_answer_is_the_large_models(client: Client, *, streams: bool) -> None:
    """An answer with an unlikely token is not seen: the large model's is given, and both costs are told."""
    alone = client.chat("large", ask(HARD), max_tokens=32)
    small = client.chat("small", ask(HARD), max_tokens=32, logprobs=0)
    if streams:
        stream = client.stream_chat("chat", ask(HARD), max_tokens=32)
        assert "".join(chunk.text for chunk in stream) == alone.text
        answer = stream.result()
    else:
        answer = client.chat("chat", ask(HARD), max_tokens=32)
    assert (answer.text, answer.token_ids) == (alone.text, alone.token_ids)
    details = told(answer)
    assert (details["answered_by"], details["reason"]) == ("large", "doubted")
    assert details["value"] < -0.05
    assert details["large"]["output_tokens"] == alone.num_output_tokens
    assert 0 < details["small"]["output_tokens"] <= small.num_output_tokens


def test_log_probabilities_are_those_that_the_caller_asked_for(client: Client) -> None:
    """The decision needs log-probabilities; the caller has them only if it asks, and then as it asks."""
    alone = client.chat("small", ask(EASY), max_tokens=8, logprobs=2)
    answer = client.chat("chat", ask(EASY), max_tokens=8, logprobs=2)
    assert answer.logprobs == alone.logprobs
    assert client.chat("chat", ask(EASY), max_tokens=8).logprobs is None


def test_several_answers_stream_together(client: Client) -> None:
    """Of several answers the most doubtful decides, and all come from one model."""
    stream = client.stream_chat("chat", ask(EASY), max_tokens=8, n=3, temperature=0.01, seed=5)
    assert {chunk.index for chunk in stream} == {0, 1, 2}
    answer = stream.result()
    assert [choice.text for choice in answer.choices] == [answer.text] * 3
    assert told(answer)["answered_by"] == "small"


def test_bad_requests_are_refused_as_a_model_refuses_them(client: Client) -> None:
    """What the caller got wrong is told as the models tell it, and the next request is served."""
    with pytest.raises(InvalidRequestError, match="max_tokens is 64000"):
        client.chat("chat", ask("x"), max_tokens=64000)
    with pytest.raises(InvalidRequestError, match="input_ids holds 1000000"):
        client.generate("chat", [1_000_000], max_tokens=4)
    assert client.chat("chat", ask(EASY), max_tokens=4).num_output_tokens > 0


def test_tokens_of_a_prompt_are_those_of_the_small_model(client: Client) -> None:
    """A cascade's tokenizer is there under its name, as every LLM's is."""
    assert client.tokenize("chat", "hello").token_ids == client.tokenize("small", "hello").token_ids


@pytest.mark.timeout(60)
@pytest.mark.parametrize("asked", ["small", "large"])
def test_caller_who_leaves_frees_the_model_behind(cascade_server: FathomServe, client: Client, asked: str) -> None:
    """A closed stream cancels the request in the model that answers it."""
    model = "lonely" if asked == "small" else "chat"
    stream = client.stream_chat(model, ask(HARD), **LONG)
    wait_until_running(cascade_server, {model: 1, asked: 1})
    stream.close()
    wait_until_running(cascade_server, {model: 0, "small": 0, "large": 0})


@pytest.mark.timeout(60)
def test_deadline_passes_through(cascade_server: FathomServe, client: Client) -> None:
    """A late answer ends as such for the caller, and in the model behind."""
    with pytest.raises(DeadlineExceededError):
        client.chat("chat", ask(HARD), timeout_s=0.3, **LONG)
    wait_until_running(cascade_server, {"chat": 0, "small": 0, "large": 0})


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("prompt", [HARD, "straight: " + HARD])
def test_without_the_large_model_the_small_ones_answer_is_given_and_marked(
    client: Client, prompt: str, *, streams: bool
) -> None:
    """A large model that cannot be reached costs no answer, whether the signal or the router would have asked it."""
    alone = client.chat("small", ask(prompt), max_tokens=32)
    if streams:
        answer = client.stream_chat("lonely", ask(prompt), max_tokens=32).result()
    else:
        answer = client.chat("lonely", ask(prompt), max_tokens=32)
    assert (answer.text, answer.token_ids) == (alone.text, alone.token_ids)
    details = told(answer)
    assert (details["answered_by"], details["reason"]) == ("small", "large_unavailable")
    assert "large" in details["large_error"]
    assert details["large"]["output_tokens"] == 0


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


@pytest.mark.timeout(60)
def test_more_requests_than_the_limit_are_refused_at_once(cascade_server: FathomServe, client: Client) -> None:
    """Beyond max_requests a caller is told to try again, and the others go on."""
    streams = [client.stream_chat("lonely", ask(EASY), **LONG) for _ in range(2)]
    wait_until_running(cascade_server, {"lonely": 2})
    with pytest.raises(OverloadedError, match="max_requests"):
        client.chat("lonely", ask(EASY), max_tokens=1)
    for stream in streams:
        stream.close()
    wait_until_running(cascade_server, {"lonely": 0, "small": 0})


def test_costs_and_reasons_are_in_the_metrics(cascade_server: FathomServe, client: Client) -> None:
    """Triton's metrics port counts answers by model and reason, and both models' tokens, as the responses told them."""

    def read() -> dict[str, float]:
        wait_until_running(cascade_server, {"chat": 0})
        return metrics(cascade_server)

    before = read()
    answers = [client.chat("chat", ask(prompt), max_tokens=32) for prompt in (EASY, HARD, EASY)]
    details = [told(answer) for answer in answers]
    expected = {
        "fathom_cascade_answers_total{model=chat,reason=trusted,role=small}": 2,
        "fathom_cascade_answers_total{model=chat,reason=doubted,role=large}": 1,
        **{
            f"fathom_cascade_tokens_total{{kind={kind},model=chat,role={role}}}": sum(
                each[role][f"{kind}_tokens"] for each in details
            )
            for role in ("small", "large")
            for kind in ("input", "output")
        },
        "fathom_cascade_held_seconds_count{model=chat}": 3,
    }
    while True:
        after = read()
        if all(after[name] - before.get(name, 0.0) == pytest.approx(count) for name, count in expected.items()):
            break
        time.sleep(0.05)


def test_gateway_serves_a_cascade_as_any_llm(cascade_server: FathomServe, client: Client) -> None:
    """OpenAI's API gives a cascade's answers, whole and streamed, without knowing what it is."""
    alone = client.chat("large", ask(HARD), max_tokens=32)
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


# ---- a cascade in this process, over the same models: what needs settings of its own ----


class Collector:
    """Takes an answer's responses."""

    def __init__(self) -> None:
        self.responses: list[dict[str, Any]] = []

    async def send(self, tensors: TensorValues, *, is_last: bool) -> None:
        """See ``AnswerSink``."""
        self.responses.append(dict(tensors))

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(
            bytes(each[protocol.TEXT_OUTPUT][0]).decode() for each in self.responses if protocol.TEXT_OUTPUT in each
        )

    @property
    def details(self) -> dict[str, Any]:
        """What the last response tells."""
        given: dict[str, Any] = json.loads(self.responses[-1][protocol.CASCADE][0])
        return given


def answer_by(
    server: FathomServe, settings: CascadeSettings, prompts: list[str], hook: Any = None
) -> list[tuple[str, dict[str, Any]]]:
    """Texts and details of streamed answers, one after the other, by a cascade of these settings."""

    async def go() -> list[tuple[str, dict[str, Any]]]:
        small, large = (ModelBehind(name, server.url) for name in (settings.small, settings.large))
        helpers = Helpers(server.url, settings.encoder, settings.verifier)
        cascade = Cascade(settings, small, large, helpers, hook)
        found = []
        for number, prompt in enumerate(prompts):
            tensors = {
                protocol.MESSAGES: np.array([json.dumps(ask(prompt)).encode()], dtype=np.object_),
                protocol.MAX_TOKENS: np.array([32], dtype=np.int32),
                protocol.STREAM: np.array([True]),
            }
            sink = Collector()
            await cascade.answer(Question(f"request-{number}", tensors, {}, 20.0), sink)
            found.append((sink.text, sink.details))
        for each in (small, large, helpers):
            await each.close()
        return found

    return asyncio.run(go())


BASE = CascadeSettings("small", "large", 0.0)


@pytest.mark.parametrize(
    ("signal", "threshold"),
    [("mean_logprob", -0.02), ("max_entropy", 0.2), ("mean_entropy", 0.1), ("agreement", 0.9)],
)
def test_every_signal_tells_easy_from_hard(cascade_server: FathomServe, signal: Any, threshold: float) -> None:
    """Each trusts the small model with what it knows, and not with what it has to guess."""
    settings = replace(BASE, signal=signal, threshold=threshold, samples=4, sample_temperature=1.0)
    (_, easy), (_, hard) = answer_by(cascade_server, settings, [EASY, HARD])
    assert (easy["answered_by"], hard["answered_by"]) == ("small", "large")
    assert easy["value"] is not None
    assert (easy["value"] > hard["value"]) == (not signal.endswith("entropy"))


def test_verifier_scores_question_and_answer(cascade_server: FathomServe) -> None:
    """A model of the task rerank decides; one that is away leaves the answer untrusted."""
    settings = replace(BASE, signal="verifier", verifier="reranker", threshold=0.9)
    (text, found), (_, other) = answer_by(cascade_server, settings, ["Repeat exactly: hello", EASY])
    assert 0 <= found["value"] <= 1
    assert 0 <= other["value"] < 0.9
    assert other["answered_by"] == "large"
    assert text
    ((_, away),) = answer_by(cascade_server, replace(settings, verifier="nobody"), [EASY])
    assert (away["answered_by"], away["reason"], away["value"]) == ("large", "doubted", None)


def test_hook_decides_and_one_that_fails_counts_as_doubt(cascade_server: FathomServe) -> None:
    """A user's function sees question, answer and tokens; whatever it raises ends in a hand-over, not in an error."""
    seen: list[SmallAnswer] = []

    def trust(answer: SmallAnswer) -> float:
        seen.append(answer)
        return {EASY: 1.0}[answer.prompt]

    settings = replace(BASE, signal="hook", threshold=0.5)
    (_, easy), (_, hard) = answer_by(cascade_server, settings, [EASY, HARD], trust)
    assert (easy["answered_by"], easy["value"]) == ("small", 1.0)
    assert (hard["answered_by"], hard["value"]) == ("large", None)
    assert len(seen[0].logprobs) == len(seen[0].entropies) > 0
    assert seen[0].finish_reason == "stop"


def test_budget_bounds_the_share_that_is_handed_over(cascade_server: FathomServe) -> None:
    """Where all is doubted, only the budget's share goes to the large model, and the rest is marked."""
    settings = replace(BASE, signal="min_logprob", threshold=1.0, budget=0.25, budget_burst=1)
    found = [details for _, details in answer_by(cascade_server, settings, [HARD] * 8)]
    assert [each["answered_by"] for each in found].count("large") == 2
    assert {each["reason"] for each in found} == {"doubted", "budget"}


def test_routed_requests_ask_the_small_model_nothing(cascade_server: FathomServe) -> None:
    """What a rule sends straight to the large model costs no token of the small one."""
    settings = replace(BASE, threshold=-9.0, router=replace(BASE.router, large_patterns=("day month",)))
    (_, easy), (_, hard) = answer_by(cascade_server, settings, [EASY, HARD])
    assert (easy["answered_by"], easy["reason"]) == ("small", "trusted")
    assert (hard["answered_by"], hard["reason"]) == ("large", "route_pattern")
    assert hard["small"] == {"model": "small", "input_tokens": 0, "output_tokens": 0}


def test_without_the_small_model_the_large_one_answers(cascade_server: FathomServe) -> None:
    """A small model that is not loaded costs no answer; one that refuses the request does."""
    ((text, details),) = answer_by(cascade_server, replace(BASE, small="nobody", threshold=-9.0), [HARD])
    assert text
    assert (details["answered_by"], details["reason"]) == ("large", "small_unavailable")


def test_a_trusted_beginning_streams_before_the_end(cascade_server: FathomServe) -> None:
    """With decide_after_tokens an answer is held for its first tokens alone."""
    prompt = "Repeat after me: kettle river island paper king queen iron jewel engine"
    whole = replace(BASE, signal="mean_logprob", threshold=-9.0)
    early = replace(whole, decide_after_tokens=2)
    ((text, held),) = answer_by(cascade_server, whole, [prompt])
    ((same, soon),) = answer_by(cascade_server, early, [prompt])
    assert text == same
    assert held["reason"] == soon["reason"] == "trusted"
    assert soon["value"] != held["value"]
