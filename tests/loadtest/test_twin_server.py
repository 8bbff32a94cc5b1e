"""The twin over real Triton: what clients, dashboards and operators meet is what a deployment would show them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.loadtest.twin_server import TwinServer

from fathom_client import (
    Client,
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    metric_names,
)

IDLE = {metric_names.REQUESTS_RUNNING: 0.0, metric_names.REQUESTS_WAITING: 0.0, metric_names.KV_CACHE_USAGE: 0.0}
LONG = {"max_tokens": 100_000, "ignore_eos": True}


@pytest.fixture(scope="module")
def client(twin: TwinServer):
    with Client(twin.url) as connected:
        yield connected


def test_an_answer_has_what_an_llms_has(client: Client) -> None:
    """Pieces, ids, counts and the finish reason come as from the engine, and the tokenizer model agrees with them."""
    with client.stream("chat", "time year people", max_tokens=7) as stream:
        chunks = list(stream)
        answer = stream.result()
    tokens = [chunk.num_output_tokens for chunk in chunks]
    assert sum(tokens) == 7  # one a response, unless the machine is so busy that two are due together
    assert min(tokens) >= 1
    assert len(tokens) > 1
    assert (answer.num_input_tokens, answer.num_output_tokens, answer.finish_reason) == (3, 7, "length")
    assert len(answer.text.split()) == len(answer.token_ids) == 7
    assert client.generate("chat", answer.text, max_tokens=1).num_input_tokens == 7
    assert client.generate("chat", list(answer.token_ids), max_tokens=1).num_input_tokens == 7


def test_the_same_prompt_has_the_same_answer(client: Client) -> None:
    """Streamed or whole, text or conversation, an answer depends on its prompt alone; its length is the setting's."""
    first, second = (client.generate("chat", "time flies") for _ in range(2))
    with client.stream("chat", "time flies") as stream:
        streamed = stream.result()
    assert first.text == second.text == streamed.text
    assert (first.num_output_tokens, first.finish_reason) == (12, "stop")
    spoken = client.chat("chat", [{"role": "user", "content": "time flies"}], max_tokens=2)
    assert spoken.num_input_tokens == first.num_input_tokens + 3
    assert client.generate("chat", "time flies", echo=True).text == f"time flies{first.text}"


def test_the_ensemble_gives_the_same(client: Client) -> None:
    """Behind tokenizer and ensemble the answer is the same one."""
    assert client.generate("chat_ensemble", "time flies").text == client.generate("chat", "time flies").text


def test_no_token_is_earlier_than_set(client: Client) -> None:
    """The first token is not there before the TTFT, the last not before all ITLs have passed."""
    begin_s = time.perf_counter()
    with client.stream("chat", "time", max_tokens=10) as stream:
        times = [time.perf_counter() - begin_s for _ in stream]
    assert times[0] >= 0.020
    assert times[-1] >= 0.020 + 9 * 0.002


def test_a_request_overrides_the_settings(twin: TwinServer) -> None:
    """Length, grouping and times can be set by request parameters, which over HTTP are further keys."""
    body = {"text_input": "time", "stream": True, "return_num_output_tokens": True, "return_finish_reason": True}
    events = twin.ask("chat", {**body, "twin_output_tokens": 9, "twin_tokens_per_response": 4, "twin_itl_ms": 1.5})
    assert [event["num_output_tokens"] for event in events] == [1, 4, 4]
    assert events[-1]["finish_reason"] == "stop"
    events = twin.ask("chat", {**body, "max_tokens": 5, "twin_ttft_ms": 0, "twin_itl_ms": 0})
    assert sum(event["num_output_tokens"] for event in events) == 5
    events = twin.ask("chat", {**body, "max_tokens": 5, "twin_ttft_ms": "lognormal:5,1", "twin_itl_ms": "normal:1,1"})
    assert sum(event["num_output_tokens"] for event in events) == 5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"twin_ttft_ms": "soon"}, "twin_ttft_ms: 'soon' is not a number"),
        ({"twin_itl": 3}, "'twin_itl' is no input or parameter of the twin's"),
        ({"messages": "[]"}, "send exactly one of"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be a whole number of at least 1"),
        ({"sampling_parameters": "{"}, "sampling_parameters is not JSON"),
        ({"sampling_parameters": '{"guided_regex": "a"}'}, "guided_regex is given; the twin says words of its own"),
        ({"sampling_parameters": '{"n": 2}'}, "n is 2; the twin gives one answer"),
        ({"return_logprobs": True}, "return_logprobs is true"),
    ],
)
def test_a_wrong_request_is_refused_by_name(twin: TwinServer, parameters: dict[str, Any], message: str) -> None:
    """The error names what is wrong, and the next request is answered."""
    [event] = twin.ask("chat", {"text_input": "time", **parameters})
    assert message in event["error"]
    assert "text_output" in twin.ask("chat", {"text_input": "time", "max_tokens": 1})[0]


def test_errors_come_with_the_code_that_was_set(twin: TwinServer) -> None:
    """Every gRPC code that a model of Triton's can give reaches a gRPC caller as that very status."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    from fathom_loadtest.twin.faults import ERROR_CODES

    def status(code: str) -> tuple[str, str]:
        request = service_pb2.ModelInferRequest(model_name="minilm")
        request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
        request.raw_input_contents.append(b"\x04\x00\x00\x00time")
        request.parameters["twin_error"].string_param = code
        with grpc.insecure_channel(twin.url) as channel, pytest.raises(grpc.RpcError) as caught:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
        return caught.value.code().name, caught.value.details()

    found = {code: status(code) for code in ERROR_CODES}
    late = found.pop("DEADLINE_EXCEEDED")
    assert late[0] == "CANCELLED"
    assert "DEADLINE_EXCEEDED: the twin was told to answer" in late[1]
    assert {code: name for code, (name, _) in found.items()} == {code: code for code in found}


def test_a_late_answer_ends_by_its_deadline(twin: TwinServer, client: Client) -> None:
    """A request's own time limit ends it on the server and frees its slot."""
    with pytest.raises(DeadlineExceededError), client.stream("tight", "time", timeout_s=0.3, **LONG) as stream:
        for _ in stream:
            pass
    twin.settled("tight", IDLE)


def test_a_full_queue_refuses_and_recovers(twin: TwinServer, client: Client) -> None:
    """Two run, two wait, a fifth is refused at once; a caller who leaves lets the next one in, in order."""
    twin.settled("tight", IDLE)
    running = [client.stream("tight", "time", **LONG) for _ in range(2)]
    for stream in running:
        next(iter(stream))
    waiting = [client.stream("tight", "time", max_tokens=3) for _ in range(2)]
    twin.settled("tight", {metric_names.REQUESTS_RUNNING: 2, metric_names.REQUESTS_WAITING: 2})
    with pytest.raises(OverloadedError, match=r"the queue is full \(2 requests run, 2 wait\)"):
        client.generate("tight", "time", max_tokens=1)
    waiting[0].close()
    twin.settled("tight", {metric_names.REQUESTS_WAITING: 1, metric_names.KV_CACHE_USAGE: 1.0})
    running[0].close()
    assert waiting[1].result().num_output_tokens == 3
    running[1].close()
    twin.settled("tight", IDLE)
    assert client.generate("tight", "time", max_tokens=2).num_output_tokens == 2


def test_metrics_are_the_engines(twin: TwinServer, client: Client) -> None:
    """Every family of the engine's is on the port from the start, and counts what was answered."""
    before = twin.settled("chat", IDLE)
    for _ in range(3):
        client.generate("chat", "time year", max_tokens=10, ignore_eos=True)
    times = (metric_names.TIME_TO_FIRST_TOKEN, metric_names.INTER_TOKEN_LATENCY, metric_names.END_TO_END_LATENCY)
    added = {
        metric_names.PROMPT_TOKENS: 6,
        metric_names.GENERATION_TOKENS: 30,
        f"{metric_names.REQUEST_ENDS}{{{metric_names.FINISHED_REASON}=length}}": 3,
        **{f"{name}_count": 3 for name in times},
        **{f"{name}_bucket{{le=+Inf}}": 3 for name in times},
    }
    after = twin.settled("chat", IDLE | {name: before.get(name, 0) + count for name, count in added.items()})
    families = {name.partition("{")[0].removesuffix("_count") for name in after}
    assert metric_names.HELP.keys() <= families
    ttft_s = (after[f"{times[0]}_sum"] - before[f"{times[0]}_sum"]) / 3
    assert ttft_s >= 0.020


def test_encoders_answer_by_the_text_alone(client: Client) -> None:
    """A text has one unit vector, one score and one set of chances, in any batch."""
    vectors = client.embed("minilm", ["one", "two", "one"])
    assert vectors.vectors.shape == (3, 384)
    np.testing.assert_array_equal(vectors.vectors[0], vectors.vectors[2])
    np.testing.assert_array_equal(vectors.vectors[1], client.embed("minilm", ["two"]).vectors[0])
    np.testing.assert_allclose(np.linalg.norm(vectors.vectors, axis=1), 1.0, rtol=1e-5)
    assert vectors.vectors[0] @ vectors.vectors[1] < 0.99
    assert list(client.embed("minilm", ["time year"]).num_input_tokens) == [4]
    scores = client.rerank("ranker", "query", ["a", "b", "a"]).scores
    assert scores[0] == scores[2] != scores[1]
    classes = client.classify("moods", ["a", "b"])
    assert classes.labels == ("bad", "good", "odd")
    np.testing.assert_allclose(classes.scores.sum(axis=1), 1.0, rtol=1e-5)
    with pytest.raises(InvalidRequestError, match="text_input is empty"):
        client.embed("minilm", [" ", "x"])
    with pytest.raises(ModelNotFoundError, match="minilm"):
        client.embed("nobody", ["x"])


def test_many_streams_are_complete(twin: TwinServer, client: Client) -> None:
    """Streams beyond the slots wait their turn, and no token of any is lost."""
    streams = [client.stream("chat", "time", max_tokens=20 + number, ignore_eos=True) for number in range(24)]
    assert [stream.result().num_output_tokens for stream in streams] == [20 + number for number in range(24)]
    twin.settled("chat", IDLE)


def living(folder_marker: str) -> list[int]:
    """Processes whose command line names the twin's repository."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if folder_marker in command:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_stopped_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int) -> None:
    """SIGINT ends server and models and removes the repository; even after SIGKILL no process lives on."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    settings = tmp_path / "twin.toml"
    settings.write_text("[[models]]\nname = 'minilm'\ntask = 'embed'\n")
    with TwinServer(tmp_path / "serve", ("--config", str(settings))) as server:
        assert "twin of minilm: embed" in server.stderr()
        status = server.stop(signum)
    assert status == (0 if signum == signal.SIGINT else -signal.SIGKILL)
    while living(str(temporary)):
        time.sleep(0.05)
    if signum == signal.SIGINT:
        assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ttft-ms", "soon"], "--ttft-ms: 'soon' is not a number"),
        (["--max-batch", "0"], "--max-batch is 0"),
        (["--error", "UNAVAILABLE"], "'UNAVAILABLE' is not CODE=SHARE"),
        (["--error", "FATAL=0.1"], "'FATAL' is no gRPC code"),
        (["--config", "none.toml"], "none.toml: cannot be read"),
        (["--config", "none.toml", "--itl-ms", "3"], "--config and --itl-ms are both given"),
        (["--grpc-port", "99999999"], "--grpc-port is 99999999"),
        (["--write-only", "."], "is not empty"),
    ],
)
def test_wrong_flags_end_it_before_it_starts(tmp_path: Path, arguments: list[str], message: str) -> None:
    """One line says what is wrong, with exit status 2."""
    (tmp_path / "something").touch()
    command = [sys.executable, "-m", "fathom_loadtest", "twin", *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert message in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_a_repository_can_be_written_for_another_place(tmp_path: Path) -> None:
    """``--write-only`` leaves a repository that any Triton with the package can serve."""
    command = [sys.executable, "-m", "fathom_loadtest", "twin", "--write-only", str(tmp_path / "new")]
    subprocess.run(command, check=True, capture_output=True)
    names = {"chat", "chat_tokenizer", "chat_ensemble", "minilm"}
    assert {folder.name for folder in (tmp_path / "new").iterdir()} == names
    assert 'backend: "python"' in (tmp_path / "new" / "chat" / "config.pbtxt").read_text()
