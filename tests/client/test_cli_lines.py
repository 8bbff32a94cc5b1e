"""``--jsonl`` and ``-``: requests and texts in pipes, in order, many at once, in bounded memory."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from fathom_client import Client

Cli = Callable[..., subprocess.CompletedProcess[str]]
Ordered = Callable[..., str]
Seen = Callable[[str], str]
PATIENCE_S = 20.0


def lines_of(*values: Any) -> str:
    """Values as JSON lines."""
    return "".join(json.dumps(value) + "\n" for value in values)


def results_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """What a command printed, a dictionary a line."""
    return [json.loads(line) for line in done.stdout.removesuffix("\n").split("\n")]


@contextmanager
def piped(url: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """A command with its standard input and output in the test's hands."""
    command = [sys.executable, "-m", "fathom_client.cli", "--url", url, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process, process.stdin, process.stdout
        finally:
            process.kill()


def test_results_come_in_the_order_of_the_lines(cli: Cli, ordered: Ordered) -> None:
    """However long each answer takes, results stand in the order of the requests, with their line and id."""
    requests = [
        {"id": number, "prompt": ordered(f"answer {number}", delay_s=0.05 * (number % 4))} for number in range(30)
    ]
    done = cli("generate", "--jsonl", "--concurrency", "16", stdin=lines_of(*requests))
    assert (done.stderr, done.returncode) == ("", 0)
    results = results_of(done)
    assert [(each["line"], each["id"], each["text"]) for each in results] == [
        (number + 1, number, f"answer {number}") for number in range(30)
    ]
    assert all(each["finish_reason"] == "stop" and each["num_output_tokens"] == len(each["text"]) for each in results)


def test_flags_are_the_lines_defaults(cli: Cli, ordered: Ordered) -> None:
    """What a line says goes before the flags; what it leaves out or gives as null is theirs."""
    prompt = ordered("", echo=True)
    done = cli(
        *("generate", "--jsonl", "--model", "nobody", "--max-tokens", "5", "--seed", "3"),
        stdin=lines_of(
            {"prompt": prompt, "model": "chat", "max_tokens": 9, "logit_bias": {"7": 1.5}, "timeout_s": 7},
            {"prompt": [104, 105], "model": "chat", "seed": None, "max_tokens": 2},
            {"prompt": prompt},
        ),
    )
    first, second, third = results_of(done)
    arrived = json.loads(first["text"])
    assert arrived["inputs"]["max_tokens"]["values"] == [9]
    assert arrived["inputs"]["seed"]["values"] == [3]
    assert arrived["timeout_us"] == 7_000_000
    assert json.loads(arrived["inputs"]["sampling_parameters"]["values"][0])["logit_bias"] == {"7": 1.5}
    assert second["text"] == "hi"
    assert third["error"]["type"] == "ModelNotFoundError"
    assert third["error"]["code"] == "NOT_FOUND"
    assert done.returncode == 1


BAD_LINES = [
    (b"{", "line 2 is not JSON: Expecting property name enclosed in double quotes at column 2"),
    (b"[1]", "line 2 is a JSON list; give an object"),
    (b'{"prompt": "a\xff"}', "line 2 is not UTF-8: byte 0xff at position 13; convert it first"),
    (b"{}", "give exactly one of prompt"),
    (b'{"prompt": null}', "give exactly one of prompt"),
    (b'{"prompt": "a", "colour": 1, "b": 2}', "unknown key b, colour; valid: id, prompt, model, max_tokens, "),
    (b'{"prompt": "a", "id": {}}', "line 2 has an id that is a dict; give a string"),
    (b'{"prompt": {}}', "prompt is a dict of something else than token ids"),
    (b'{"prompt": "a", "max_tokens": "many"}', "max_tokens is 'many'; give an integer between 1 and"),
    (b'{"prompt": "a", "logit_bias": {"x": 1}}', "logit_bias has the key 'x'; give token ids"),
    (b'{"prompt": "a", "model": 7}', "model is a int; give a str"),
    (b'{"prompt": "\\ud800"}', "prompt has the lone surrogate U+D800"),
    (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "line 2 is JSON that cannot be read: Exceeds the limit"),
    (b'{"prompt": "a", "json_schema": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    (b'{"prompt": "' + b"a" * (17 << 20) + b'"}', "line 2 is longer than 16777216 bytes; split it"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=lambda value: str(value)[:30])
def test_bad_line_is_named_and_the_others_are_answered(cli: Cli, line: bytes, message: str) -> None:
    """A line that cannot be sent becomes an error with its number; those around it, and blank ones, do not suffer."""
    done = cli("generate", "--jsonl", stdin=b'{"prompt": "before"}\n' + line + b'\r\n \n{"prompt": "after"}')
    before, bad, after = results_of(done)
    assert (before["line"], before["text"]) == (1, "before")
    assert (bad["line"], bad["error"]["type"]) == (2, "InvalidArgumentError")
    assert message in bad["error"]["message"]
    assert (after["line"], after["text"]) == (4, "after")
    assert (done.stderr, done.returncode) == ("", 1)


def test_server_faults_are_errors_of_their_lines(cli: Cli, ordered: Ordered) -> None:
    """What the server refuses or breaks stands in its line's place, with its status; so does a missing server."""
    done = cli(
        *("generate", "--jsonl"),
        stdin=lines_of(
            {"id": "x", "prompt": ordered("a", error=("INTERNAL", "a bug"))},
            {"prompt": ordered("a", error=("UNAVAILABLE", "the queue is full"))},
            {"prompt": "fine"},
        ),
    )
    broken, full, fine = results_of(done)
    assert broken == {
        "line": 1,
        "id": "x",
        "error": {"type": "ServerError", "message": "chat: the server failed with INTERNAL: a bug", "code": "INTERNAL"},
    }
    assert (full["error"]["type"], full["error"]["code"]) == ("OverloadedError", "UNAVAILABLE")
    assert (fine["text"], done.returncode) == ("fine", 1)
    away = cli("generate", "--jsonl", stdin=lines_of({"prompt": "a"}, {"prompt": "b"}), to="127.0.0.1:1")
    assert [each["error"]["type"] for each in results_of(away)] == ["ServerUnavailableError"] * 2
    assert (away.stderr, away.returncode) == ("", 1)


def test_encoders_answer_lines(cli: Cli, client: Client) -> None:
    """``embed``, ``rerank`` and ``classify`` take a request a line, with its own options."""
    done = cli("embed", "--jsonl", stdin=lines_of({"text": "one", "id": "v"}, {"text": "x" * 600}, {"text": ["one"]}))
    one, long, wrong = results_of(done)
    vectors = client.embed("minilm", ["one"]).vectors
    assert one == {"line": 1, "id": "v", "text": "one", "num_input_tokens": 3, "embedding": vectors[0].tolist()}
    assert "at most 512 fit" in long["error"]["message"]
    assert wrong["error"]["message"] == "texts[0] is a list; give a str"
    (cut,) = results_of(cli("embed", "--jsonl", stdin=lines_of({"text": "x" * 600, "truncate": True})))
    assert cut["num_input_tokens"] == 512

    searches = [
        {"query": "red blue", "documents": ["none", "red", "blue red"]},
        {"documents": ["grey", "x"]},
        {"query": "red", "documents": "red"},
        {"query": "red", "documents": ["red"], "truncate": "yes"},
    ]
    done = cli("rerank", "--model", "reranker", "grey", "--jsonl", stdin=lines_of(*searches))
    first, second, third, fourth = results_of(done)
    assert [(each["position"], each["document"]) for each in first["results"]] == [
        (2, "blue red"),
        (1, "red"),
        (0, "none"),
    ]
    assert second["results"][0] == {"score": 1.0, "position": 0, "document": "grey"}
    assert third["error"]["message"] == "documents is a str; give a list of strings"
    assert fourth["error"]["message"] == "truncate is 'yes'; give true or false"

    (mood,) = results_of(cli("classify", "--model", "moods", "--jsonl", stdin=lines_of({"text": "++-x"})))
    assert (mood["label"], mood["scores"]["glad"]) == ("glad", 0.5)


def test_plain_lines_stop_at_the_first_fault(cli: Cli) -> None:
    """With ``-`` every line is a text; one that is refused ends the command with its number, after those before it."""
    done = cli("embed", "-", "--concurrency", "1", stdin="one\n\n" + "x" * 600 + "\ntwo\n")
    assert [each["text"] for each in results_of(done)] == ["one"]
    assert done.stderr == "error: line 3: minilm: text_input has 600 tokens; at most 512 fit\n"
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "error: give either a PROMPT, or --jsonl and requests on standard input"),
        (["generate", "a", "--jsonl"], "error: give either a PROMPT, or --jsonl"),
        (["embed"], "error: give either TEXTs, or - for"),
        (["embed", "a", "--jsonl"], "error: give either TEXTs, or - for"),
        (["rerank", "--model", "reranker", "a"], "error: give either a QUERY and DOCUMENTs, or"),
        (["generate", "--jsonl", "--concurrency", "0"], "error: --concurrency is 0; it must be between 1 and 1024"),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_contradicting_flags_are_a_users_fault(cli: Cli, arguments: list[str], message: str) -> None:
    """A command without its text, or with both a text and ``--jsonl``, says what to give."""
    done = cli(*arguments)
    assert (done.stdout, done.returncode, done.stderr.count("\n")) == ("", 2, 1)
    assert done.stderr.startswith(message)


def test_input_that_cannot_be_read_is_a_users_fault(url: str) -> None:
    """A closed descriptor as standard input is said in a line."""
    for command in ("generate --jsonl", "embed -", "generate -", "chat"):
        script = f"exec {sys.executable} -m fathom_client.cli --url {url} {command} <&-"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        message = "error: standard input is closed; give it something to read\n"
        assert (done.stdout, done.stderr, done.returncode) == ("", message, 2)


@pytest.mark.parametrize("arguments", [["generate", "--jsonl"], ["embed", "-"], ["chat"]], ids=" ".join)
def test_each_line_is_answered_while_more_may_come(url: str, arguments: list[str]) -> None:
    """A line's answer comes before the next line does, as behind ``tail -f``; the input's end is the command's."""
    with piped(url, *arguments) as (process, stdin, stdout):
        for text in ("one", "two"):
            line = json.dumps({"prompt": text}) if "--jsonl" in arguments else text
            stdin.write(line.encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += os.read(stdout.fileno(), 65536)
            assert text in answer.decode()
        stdin.close()
        assert process.wait(PATIENCE_S) == 0


def test_memory_is_bounded_for_endless_input(url: str) -> None:
    """A slow reader of the results holds the reading of the input up: a flood of lines does not pile up in memory."""
    line = lines_of({"prompt": "x" * 20_000}).encode()
    with piped(url, "generate", "--jsonl", "--concurrency", "2") as (process, stdin, stdout):
        os.set_blocking(stdin.fileno(), False)
        sent = 0
        while select.select([], [stdin], [], 1.0)[1]:  # nobody reads the results, so this comes to an end
            sent += os.write(stdin.fileno(), line)
            assert sent < 100 * len(line)
        assert process.poll() is None
        assert json.loads(stdout.readline())["line"] == 1


def test_line_without_end_is_read_in_bounded_memory(url: str) -> None:
    """A line of a gigabyte is refused while little more than the limit of a line is held."""
    with piped(url, "generate", "--jsonl") as (process, stdin, stdout):
        megabyte = b"x" * (1 << 20)
        for _ in range(1024):
            stdin.write(megabyte)
        status = Path(f"/proc/{process.pid}/status").read_text()
        stdin.close()
        assert json.loads(stdout.readline())["error"]["message"] == "line 1 is longer than 16777216 bytes; split it"
        assert process.wait(PATIENCE_S) == 1
    peak_kb = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    assert peak_kb < 300_000


@pytest.mark.parametrize("arguments", [["generate", "--jsonl"], ["embed", "-"]], ids=" ".join)
def test_reader_that_leaves_ends_a_pipe_quietly(url: str, arguments: list[str]) -> None:
    """When the reader of the results leaves, as ``head`` does, the command ends with SIGPIPE's status and no word."""
    line = lines_of({"prompt": "hello"}).encode() if "--jsonl" in arguments else b"hello\n"
    with piped(url, *arguments) as (process, stdin, stdout):
        stdin.write(line)
        assert stdout.readline()
        stdout.close()
        stdin.write(line)
        assert process.wait(PATIENCE_S) == 141  # though standard input is still open
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_ctrl_c_ends_a_pipe_and_cancels_its_requests(url: str, ordered: Ordered, seen: Seen) -> None:
    """Ctrl-C ends the command without a word while it waits for answers or for input, and frees the server's slots."""
    with piped(url, "generate", "--jsonl") as (process, stdin, _):
        stdin.write(lines_of({"prompt": ordered("a " * 500, delay_s=0.02)}).encode())
        seen("started")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
    with piped(url, "generate", "--jsonl") as (process, stdin, stdout):
        stdin.write(lines_of({"prompt": "hello"}).encode())
        assert stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
