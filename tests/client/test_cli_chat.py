"""``fathom-client chat``: conversations that are piped and typed."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .terminal import PATIENCE_S, Terminal, fathom_client

Cli = Callable[..., subprocess.CompletedProcess[str]]
Ordered = Callable[..., str]
Seen = Callable[[str], str]


@pytest.fixture
def open_chat(url: str, tmp_path: Path) -> Iterator[Callable[[], Terminal]]:
    """Open an interactive conversation and wait for its first prompt; one after another shares the history."""
    opened: list[Terminal] = []

    def start() -> Terminal:
        opened.append(fathom_client("--url", url, "chat", history=tmp_path / "state" / "history"))
        opened[-1].expect("Ctrl-C stops an answer.*\n")
        opened[-1].expect("> ")
        return opened[-1]

    try:
        yield start
    finally:
        for terminal in opened:
            terminal.close()


@pytest.fixture
def chat(open_chat: Callable[[], Terminal]) -> Terminal:
    """An interactive conversation, at its first prompt."""
    return open_chat()


def test_piped_chat_answers_each_line(cli: Cli) -> None:
    """Without a terminal each line of standard input is a turn; stdout has the answers alone, and no prompt."""
    done = cli("chat", stdin="hello there\r\n/reset\n\n//etc/hosts is a file\nlast\n/exit\nnever\n")
    assert done.stdout == "hello there\n/etc/hosts is a file\nlast\n"
    assert (done.stderr, done.returncode) == ("(forgotten)\n", 0)


def test_fault_ends_a_piped_chat(cli: Cli) -> None:
    """Nobody is there to mend a turn that comes through a pipe: an unknown model, command or character ends it."""
    done = cli("chat", "--model", "nobody", stdin="hello\nagain\n")
    assert (done.returncode, done.stderr.count("error:")) == (2, 1)
    done = cli("chat", stdin="hello\n/dance now\nagain\n")
    message = "error: /dance is no command; there are /reset, /system, /save, /help, /exit\n"
    assert (done.stdout, done.stderr, done.returncode) == ("hello\n", message, 2)
    done = cli("chat", stdin=b"hello\n\xff\n")
    assert done.stderr == "error: line 2 is not UTF-8: byte 0xff at position 0; convert it first\n"
    assert (done.stdout, done.returncode) == ("hello\n", 2)


def test_chat_sends_its_history(cli: Cli) -> None:
    """Each turn carries the system text and the turns before it, until ``/reset``; ``/system`` changes the text."""
    echo = json.dumps({"echo": True})
    done = cli("chat", "--system", "be brief", stdin=f"hello\n{echo}\n/reset\n{echo}\n/system be long\n{echo}\n")
    first, second, third = (
        [(turn["role"], turn["content"]) for turn in json.loads(json.loads(line)["inputs"]["messages"]["values"][0])]
        for line in done.stdout.splitlines()
        if line.startswith("{")
    )
    assert first == [("system", "be brief"), ("user", "hello"), ("assistant", "hello"), ("user", echo)]
    assert second == [("system", "be brief"), ("user", echo)]
    assert third[0] == ("system", "be long")
    assert third[1] == ("user", echo)
    assert len(third) == 4


def test_conversation_is_saved_as_json(cli: Cli, tmp_path: Path) -> None:
    """``/save`` writes all messages; it writes over its own file and no other, and says what is wrong with a name."""
    file, other = tmp_path / "talk ü.json", tmp_path / "other.json"
    other.write_text("mine")
    done = cli("chat", "--system", "be brief", stdin=f"one\n/save {file}\ntwo\n/save {file}\n/save {other}\n")
    assert done.stderr.splitlines() == [
        f"(2 messages in {file})",
        f"(4 messages in {file})",
        f"error: {other} exists; /save writes over nothing but what it wrote before",
    ]
    assert done.returncode == 2
    saved = json.loads(file.read_text(encoding="utf-8"))["messages"]
    assert [(each["role"], each["content"]) for each in saved] == [
        ("system", "be brief"),
        *[(role, word) for word in ("one", "two") for role in ("user", "assistant")],
    ]
    assert other.read_text() == "mine"
    assert "nothing has been said" in cli("chat", stdin=f"/save {file}\n").stderr
    assert "/save names no file" in cli("chat", stdin="hello\n/save\n").stderr
    assert "cannot be written" in cli("chat", stdin=f"hello\n/save {tmp_path / 'none' / 'x'}\n").stderr


def test_conversations_in_lines_of_json(cli: Cli) -> None:
    """``chat --jsonl`` answers one conversation a line, with the flags' instructions before each."""
    lines = [
        {"id": "a", "messages": [{"role": "user", "content": "hello"}]},
        {"messages": [{"role": "user", "content": json.dumps({"echo": True})}], "max_tokens": 9},
        {"messages": [{"role": "user"}]},
        {"messages": []},
    ]
    done = cli("chat", "--system", "be brief", "--jsonl", stdin="".join(json.dumps(line) + "\n" for line in lines))
    first, second, third, fourth = map(json.loads, done.stdout.splitlines())
    assert (first["line"], first["id"], first["text"]) == (1, "a", "hello")
    arrived = json.loads(second["text"])["inputs"]
    assert [turn["role"] for turn in json.loads(arrived["messages"]["values"][0])] == ["system", "user"]
    assert arrived["max_tokens"]["values"] == [9]
    assert third["error"]["message"] == "messages[1] has the content None; give a string"
    assert fourth["error"]["message"] == "messages is empty; give at least one message"
    assert done.returncode == 1


def test_interactive_chat(chat: Terminal) -> None:
    """A session in a terminal answers, obeys its commands, survives an error, and leaves on Ctrl-D."""
    chat.type("hello wide world\n")
    assert "hello wide world" in chat.expect("\nhello wide world\r\n> ")
    chat.type("/reset\n")
    chat.expect(r"\(forgotten\)\r\n> ")
    chat.type("/help\n")
    assert "/save FILE" in chat.expect(r"//text .*\r\n> ")
    chat.type("/system\n")
    chat.expect(r"\(no instructions\)\r\n> ")
    chat.type("/dance\n")
    chat.expect(r"error: /dance is no command; .*\n> ")
    chat.type('{"error": ["UNAVAILABLE", "the queue is full"]}\n')
    chat.expect(r"error: chat: the queue is full .*\n> ")
    chat.type("still here\n")
    chat.expect("\nstill here\r\n> ")
    chat.type("\x04")
    assert chat.process.wait(PATIENCE_S) == 0


def test_answer_that_is_cut_says_so(url: str) -> None:
    """An answer that ends at its limit of tokens is followed by a remark."""
    terminal = fathom_client("--url", url, "chat", "--max-tokens", "5")
    try:
        terminal.expect("> ")
        terminal.type("hello world\n")
        terminal.expect(r"\nhello\r\n\(cut: --max-tokens, .*\)\r\n> ")
    finally:
        terminal.close()


def test_lines_can_be_called_back(open_chat: Callable[[], Terminal], tmp_path: Path) -> None:
    """The arrow up brings earlier lines back, those of the session before too; only their owner can read the file."""
    first = open_chat()
    first.type("remember me\n")
    first.expect("\nremember me\r\n> ")
    first.type("\x04")
    assert first.process.wait(PATIENCE_S) == 0
    assert (tmp_path / "state" / "history").stat().st_mode & 0o777 == 0o600
    second = open_chat()
    second.type("\x1b[A\n")
    second.expect("remember me\r\nremember me\r\n> ")
    second.type("/res\t\n")
    second.expect(r"\(forgotten\)\r\n> ")


def test_history_that_cannot_be_kept_is_said(url: str, tmp_path: Path) -> None:
    """A session whose history has no place goes on, and says so at its end."""
    (tmp_path / "file").write_text("")
    terminal = fathom_client("--url", url, "chat", history=tmp_path / "file" / "history")
    try:
        terminal.expect("> ")
        terminal.type("hello\n")
        terminal.expect("\nhello\r\n> ")
        terminal.type("/exit\n")
        terminal.expect(r"\(no history in .*FATHOM_HISTORY names another\)")
        assert terminal.process.wait(PATIENCE_S) == 0
    finally:
        terminal.close()


def test_ctrl_c_stops_the_answer_and_not_the_session(chat: Terminal, seen: Seen, tmp_path: Path) -> None:
    """Ctrl-C cancels the running answer on the server and forgets that turn; the conversation goes on."""
    # a turn is one line, so the stand-in is told by its single line of JSON, and echoes what it was sent, slowly
    chat.type("first\n")
    chat.expect("\nfirst\r\n> ")
    orders = {"echo": True, "delay_s": 0.05, "marker": str(tmp_path / "cancelled")}
    chat.type(json.dumps(orders) + "\n")
    chat.expect(r"\n\{.inputs.")
    chat.type("\x03")
    chat.expect(r"\(stopped\)\r\n> ")
    assert seen("cancelled").startswith("cancelled after")
    chat.type("half a line\x03")
    chat.expect(r"\(Ctrl-D leaves\)\r\n> ")
    chat.type(json.dumps({"echo": True}) + "\n")
    shown = chat.expect(r'"timeout_us": \d+\}\r\n> ')
    assert shown.count('\\"role\\"') == 3
    chat.type("/exit\n")
    assert chat.process.wait(PATIENCE_S) == 0


def test_pasted_lines_are_one_turn(url: str) -> None:
    """A text of several lines that is pasted into the prompt is sent as one, when Enter is pressed."""
    terminal = fathom_client("--url", url, "chat", TERM="xterm")
    try:
        terminal.expect("> ")
        terminal.type("\x1b[200~first line\nsecond line\x1b[201~")
        terminal.type("\n")
        terminal.expect(r"second line\r\nfirst line\r\nsecond line\r\n> ")
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE_S) == 0
    finally:
        terminal.close()
