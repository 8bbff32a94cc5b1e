"""``fathom-client`` on real models: tokens, a conversation, what runs and waits."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.client.terminal import PATIENCE_S, fathom_client
from tests.serving import FathomServe

from fathom_client import Client

Run = Callable[..., subprocess.CompletedProcess[str]]

TEXT = "Add 17 and 25. Ünï → 漢字"
TALK = [{"role": "user", "content": "Add 17 and 25."}]


@pytest.fixture
def run(server: FathomServe) -> Run:
    """Run ``fathom-client`` against the deployment."""

    def start(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fathom_client.cli", "--url", server.url, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)

    return start


def test_text_becomes_ids_and_text_again(run: Run, client: Client) -> None:
    """The ids are those that the model reads, ``--count`` is their number, ``--decode`` gives the text back."""
    done = run("tokenize", TEXT)
    assert (done.stderr, done.returncode) == ("", 0)
    tokens = json.loads(done.stdout)
    assert tokens["num_tokens"] == len(tokens["token_ids"])
    assert client.generate("chat", TEXT, max_tokens=1).num_input_tokens == tokens["num_tokens"]
    assert run("tokenize", "--count", "-", stdin=TEXT).stdout == f"{tokens['num_tokens']}\n"
    ids = [str(each) for each in tokens["token_ids"]]
    assert run("tokenize", "--decode", *ids).stdout.strip() == TEXT
    assert run("tokenize", "--decode", "-", stdin=" ".join(ids)).stdout.strip() == TEXT


def test_lines_of_texts_conversations_and_ids(run: Run, client: Client) -> None:
    """``--jsonl`` takes a text, a conversation or ids a line; what is none of them is an error of its line."""
    lines = [{"text": TEXT}, {"messages": TALK, "id": 7}, {"token_ids": [5, 6]}, {"token_ids": ["5"]}, {"text": 5}, {}]
    done = run("tokenize", "--jsonl", stdin="".join(json.dumps(line) + "\n" for line in lines))
    text, talk, ids, bad_ids, bad_text, nothing = map(json.loads, done.stdout.splitlines())
    assert text["token_ids"] == json.loads(run("tokenize", TEXT).stdout)["token_ids"]
    assert talk["id"] == 7
    assert talk["num_tokens"] == client.chat("chat", TALK, max_tokens=1).num_input_tokens
    assert ids["text"] == client.detokenize("chat", [5, 6])
    assert "token_ids" in bad_ids["error"]["message"]
    assert bad_text["error"]["message"] == "text is a int; give a string"
    assert nothing["error"]["message"] == "give exactly one of text, messages, token_ids"
    assert (done.stderr, done.returncode) == ("", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b"], "error: give one TEXT, in quotes, in place of 2\n"),
        ([], "error: give either a TEXT, or - for standard input, or --jsonl for its requests\n"),
        (["--decode", "5", "six"], "error: 'six' is no token id; --decode takes integers\n"),
        (["a", "--model", "minilm_encoder"], "error: minilm_encoder"),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_wrong_texts_are_a_users_fault(run: Run, arguments: list[str], message: str) -> None:
    """What cannot be tokenised is one line, exit status 2."""
    done = run("tokenize", *arguments)
    assert (done.stdout, done.returncode, done.stderr.count("\n")) == ("", 2, 1)
    assert done.stderr.startswith(message)


def test_terminal_talks_to_a_real_model(server: FathomServe) -> None:
    """A conversation in a terminal streams a right answer, is stopped by Ctrl-C, and goes on."""
    terminal = fathom_client("--url", server.url, "chat")
    try:
        terminal.expect("> ")
        terminal.type("Sort alphabetically: ship, lamp, apple\n")
        terminal.expect(r"apple, lamp, ship")
        terminal.expect("> ")
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE_S) == 0
    finally:
        terminal.close()


def test_status_shows_what_runs_and_waits(run: Run, server: FathomServe) -> None:
    """With ``--metrics`` the status tells of each LLM how many requests run and wait, and how full its cache is."""
    with Client(server.url) as client, client.stream("chat", "Once", ignore_eos=True, max_tokens=1500) as stream:
        next(stream)
        done = run("status", "--metrics", f"127.0.0.1:{server.metrics_port}")
        seen = json.loads(run("status", "--json", "--metrics", f"127.0.0.1:{server.metrics_port}").stdout)
    assert (done.stderr, done.returncode) == ("", 0)
    _, heads, *rows = done.stdout.splitlines()
    assert heads.split()[-4:] == ["PENDING", "RUNNING", "WAITING", "KV_USAGE"]
    (chat,) = [dict(zip(heads.split(), row.split(), strict=False)) for row in rows if row.startswith("chat ")]
    assert (chat["RUNNING"], chat["WAITING"]) == ("1", "0")
    assert chat["KV_USAGE"].endswith("%")
    (minilm,) = [model for model in seen["models"] if model["name"] == "minilm_encoder"]
    assert minilm["gauges"] == {"nv_inference_pending_request_count": 0}
