"""``fathom-client`` as its users meet it: answers, faults, signals."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fathom_client import Client

from .terminal import PATIENCE_S, fathom_client
from .texts import every_plane

Cli = Callable[..., subprocess.CompletedProcess[str]]
Ordered = Callable[..., str]
Seen = Callable[[str], str]


def test_generate_prints_the_answer(cli: Cli) -> None:
    """The answer goes to stdout, every character of it, from an argument or from standard input."""
    text = every_plane().replace("\0", "")
    assert cli("generate", text).stdout == text + "\n"
    done = cli("generate", "-", stdin=text)
    assert (done.stdout, done.stderr, done.returncode) == (text + "\n", "", 0)
    assert cli("generate", "hello big world", "--max-tokens", "7").stdout == "hello b\n"


def test_generate_as_json(cli: Cli, ordered: Ordered) -> None:
    """``--json`` prints one object with everything known of the answer, and every flag reaches the model."""
    answer = json.loads(cli("generate", "hello", "--json").stdout)
    assert (answer["text"], answer["finish_reason"], answer["num_output_tokens"]) == ("hello", "stop", 5)
    flags = (
        "--max-tokens 9 --temperature 0.5 --top-k 4 --top-p 0.25 --seed 3 --repetition-penalty 1.5 --stop a --stop b "
        "--min-tokens 2 --min-p 0.125 --presence-penalty 0.5 --frequency-penalty -0.5 --bad-word c --bad-word d "
        "--priority -2 --choice yes --choice no -n 1 --best-of 2 --logprobs 1 --prompt-logprobs 0 --echo"
    )
    answer = json.loads(cli("generate", ordered("", echo=True), "--json", "--timeout", "7", *flags.split()).stdout)
    arrived = json.loads(answer["text"])
    values = {name: tensor["values"] for name, tensor in arrived["inputs"].items()}
    assert arrived["timeout_us"] == 7_000_000
    assert values["max_tokens"] == [9]
    assert values["temperature"] == [0.5]
    assert values["top_k"] == [4]
    assert values["top_p"] == [0.25]
    assert values["seed"] == [3]
    assert values["repetition_penalty"] == [1.5]
    assert values["stop_words"] == ["a", "b"]
    assert values["min_tokens"] == [2]
    assert values["min_p"] == [0.125]
    assert values["presence_penalty"] == [0.5]
    assert values["frequency_penalty"] == [-0.5]
    assert values["bad_words"] == ["c", "d"]
    assert values["priority"] == [-2]
    assert values["exclude_input_in_output"] == [False]
    assert json.loads(values["sampling_parameters"][0]) == {
        "n": 1,
        "best_of": 2,
        "logprobs": 1,
        "prompt_logprobs": 0,
        "structured_outputs": {"choice": ["yes", "no"]},
    }
    assert [each["token_id"] for each in answer["choices"][0]["logprobs"]] == answer["token_ids"]


def test_structures_come_from_flags_and_files(cli: Cli, ordered: Ordered, tmp_path: Path) -> None:
    """A schema or a grammar stands on the command line or in a file; two structures are refused."""
    schema = tmp_path / "schema.json"
    schema.write_text('{"const": "ö"}', encoding="utf-8")
    given = {
        "--json-schema": (f"@{schema}", {"json": '{"const": "ö"}'}),
        "--grammar": ('start: "a"', {"grammar": 'start: "a"'}),
        "--regex": ("a+", {"regex": "a+"}),
    }
    for flag, (value, sent) in given.items():
        arrived = json.loads(cli("generate", ordered("", echo=True), flag, value).stdout)
        parameters = json.loads(arrived["inputs"]["sampling_parameters"]["values"][0])
        assert parameters == {"structured_outputs": sent}
    assert "not allowed with" in cli("generate", "hello", "--regex", "a", "--json-object").stderr
    missing = cli("generate", "hello", "--json-schema", f"@{tmp_path / 'none.json'}")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "--json-schema names a file that cannot be read" in missing.stderr


def test_several_answers_stand_behind_their_numbers(cli: Cli) -> None:
    """``-n`` prints each answer on its own line."""
    assert cli("generate", "hello", "-n", "2", "--temperature", "1").stdout == "[1] hello\n[2] 1:hello\n"


def test_embed_prints_json_lines(cli: Cli, client: Client) -> None:
    """Each text gets a line with its vector, in order, from arguments or from the lines of standard input."""
    texts = ["one", "zwei", "三\u2028still three"]
    by_arguments = cli("embed", *texts)
    by_lines = cli("embed", "-", "--batch-size", "2", stdin="\n".join(texts) + "\n")
    assert by_arguments.stdout == by_lines.stdout
    lines = [json.loads(line) for line in by_lines.stdout.split("\n")[:-1]]
    assert [line["text"] for line in lines] == texts
    assert [line["embedding"] for line in lines] == client.embed("minilm", texts).vectors.tolist()
    assert [line["num_input_tokens"] for line in lines] == list(map(len, texts))


USER_FAULTS = [
    (["generate", ""], "error: prompt is empty; give at least one character\n"),
    (["generate", "a", "--max-tokens", "0"], "error: max_tokens is 0; it must be between 1 and 2147483647\n"),
    (["generate", "a", "--temperature", "nan"], "error: temperature is nan; it must be at least 0 and at most 100\n"),
    (["generate", "a", "--timeout", "-1"], "error: timeout is -1.0; give a number of seconds above 0\n"),
    (
        ["generate", "a", "--model", "nobody"],
        "error: nobody: Request for unknown model: 'nobody' is not found; models that are ready: chat, minilm, moods, "
        "reranker\n",
    ),
    (["embed", "x" * 600], "error: minilm: text_input has 600 tokens; at most 512 fit\n"),
    (["embed", "a", ""], "error: texts[1] is empty; give at least one character\n"),
]


@pytest.mark.parametrize(("arguments", "message"), USER_FAULTS, ids=lambda value: str(value)[:30])
def test_users_fault_is_one_line_and_exit_2(cli: Cli, arguments: list[str], message: str) -> None:
    """What the user got wrong is one line on stderr, nothing on stdout, exit status 2."""
    done = cli(*arguments)
    assert (done.stdout, done.stderr, done.returncode) == ("", message, 2)


def test_input_that_is_not_utf8_is_a_users_fault(cli: Cli) -> None:
    """Bytes that are no UTF-8 are named with their place."""
    done = cli("generate", "-", stdin=b"ab\xff")
    assert done.stderr == "error: standard input is not UTF-8: byte 0xff at position 2; convert it first\n"
    assert done.returncode == 2


def test_wrong_flags_are_a_users_fault(cli: Cli) -> None:
    """Flags that do not exist and a missing command exit 2 with usage."""
    for arguments in (["generate", "a", "--colour"], [], ["sing"], ["--url", "http://localhost:8000", "models"]):
        done = cli(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "error: " in done.stderr


def test_servers_fault_is_one_line_and_exit_1(cli: Cli, ordered: Ordered) -> None:
    """A server that is away or fails is one line on stderr and exit status 1, after what had come."""
    done = cli("status", to="127.0.0.1:1")
    assert done.returncode == 1
    assert re.fullmatch(r"error: no server answers at 127\.0\.0\.1:1 .*fathom-serve\n", done.stderr)
    done = cli("generate", ordered("hello big world", error=("INTERNAL", "a\nbug"), after=1, delay_s=0.2))
    assert (done.stdout, done.returncode) == ("hello ", 1)
    assert done.stderr == "error: chat: the server failed with INTERNAL: a bug\n"


def test_ctrl_c_ends_a_command_and_its_request(url: str, ordered: Ordered, seen: Seen) -> None:
    """Ctrl-C while an answer streams exits 130 without a traceback, and the server sees the request cancelled."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fathom_client.cli", "--url", url, "generate", ordered("a " * 500, delay_s=0.02)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    seen("started")
    assert process.stdout is not None
    assert process.stdout.read(2) == b"a "
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stderr) == (130, b"")
    seen("cancelled")


def test_closed_pipe_ends_a_command_and_its_request(url: str, ordered: Ordered, seen: Seen) -> None:
    """When the reader of a pipe leaves, the command ends quietly and the request is cancelled."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fathom_client.cli", "--url", url, "generate", ordered("a " * 500, delay_s=0.02)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(2)
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 141
    assert process.stderr.read() == b""
    process.stderr.close()
    seen("cancelled")


def test_help_needs_nothing_heavy() -> None:
    """``--help`` of every command answers without importing gRPC or numpy."""
    code = (
        "import sys\nfrom fathom_client.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'grpc', 'numpy', 'tritonclient'} & set(sys.modules)"
    )
    commands = ["generate", "chat", "embed", "rerank", "classify", "tokenize"]
    commands += ["status", "models", "wait", "load", "unload", "completion"]
    for command in ([], *([name] for name in commands)):
        done = subprocess.run([sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "usage: fathom-client" in done.stdout
        assert not command or f"examples:\n  fathom-client {command[0]}" in done.stdout or command == ["completion"]


def test_terminal_shows_answers_for_people(url: str) -> None:
    """In a terminal vectors, scores and labels are short lines, and an answer cannot send the terminal commands."""
    shown = {
        ("embed", "one two"): r"one two  \[0\.\d{4}, (-?\d\.\d{4}, ){2}-?\d\.\d{4}, …\] \(\d+ dimensions\)\r\n",
        ("classify", "--model", "moods", "++-\x1bx"): r"glad  0\.400  \+\+-\\x1bx\r\n",
        ("rerank", "--model", "reranker", "red blue", "x", "blue\nred"): r"1\.000  blue red\r\n0\.000  x\r\n",
        ("generate", "a\x1b]0;title\x07b\tc"): r"a\\x1b\]0;title\\x07b\tc\r\n",
        ("generate", "a\x9bb", "-n", "2", "--temperature", "1"): r"\[1\] a\\x9bb\r\n\[2\] 1:a\\x9bb\r\n",
    }
    for arguments, pattern in shown.items():
        terminal = fathom_client("--url", url, *arguments)
        try:
            terminal.expect(pattern)
            assert terminal.process.wait(PATIENCE_S) == 0
        finally:
            terminal.close()
