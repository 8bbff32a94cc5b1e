"""A conversation on the command line: its history, its commands, its answers."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from fathom_client._commands.console import print_text
from fathom_client._options import GenerateOptions, Message
from fathom_client._sync import Client
from fathom_client.errors import InvalidArgumentError

_HELP: Final = """\
/reset        forget the conversation, but not the instructions
/system TEXT  instructions from now on; without TEXT, show them
/save FILE    write the conversation there, as JSON
/help         show this
/exit         leave, as Ctrl-D does
//text        say "/text" to the model
"""


class Conversation:
    """Turns with one model. A turn whose answer did not come to its end is not remembered.

    Answers go to stdout, remarks to stderr.
    """

    def __init__(self, client: Client, model: str, options: GenerateOptions, system: str | None) -> None:
        self._client = client
        self._model = model
        self._options = options
        self._system = system
        self._turns: tuple[Message, ...] = ()
        self._saved: set[Path] = set()
        self._obey: dict[str, Callable[[str], None]] = {
            "/reset": self._reset,
            "/system": self._instruct,
            "/save": self._save,
            "/help": lambda _: _remark(_HELP),
        }

    @property
    def commands(self) -> tuple[str, ...]:
        """All that begins with a slash and is not for the model."""
        return (*self._obey, "/exit")

    def take(self, line: str) -> bool:
        """Answer a line, or obey it; false if it ends the conversation. Raises FathomError."""
        line = line.strip()
        command, _, argument = line.partition(" ")
        if command == "/exit":
            return False
        if command in self._obey:
            self._obey[command](argument.strip())
        elif line.startswith("/") and not line.startswith("//"):
            raise InvalidArgumentError(f"{command} is no command; there are {', '.join(self.commands)}")
        elif line:
            self._answer(line.removeprefix("/") if line.startswith("//") else line)
        return True

    def _answer(self, line: str) -> None:
        asked = (*self._turns, Message("user", line))
        with self._client.stream_chat(self._model, (*self._opening(), *asked), **self._options) as stream:
            for chunk in stream:
                print_text(chunk.text, end="")
            print(flush=True)
            answer = stream.result()
        if answer.finish_reason == "length":
            _remark("(cut: --max-tokens, or the model's context, ends here)\n")
        self._turns = (*asked, Message("assistant", answer.text))

    def _opening(self) -> tuple[Message, ...]:
        return () if self._system is None else (Message("system", self._system),)

    def _reset(self, _: str) -> None:
        self._turns = ()
        _remark("(forgotten)\n")

    def _instruct(self, text: str) -> None:
        if text:
            self._system = text
        _remark("(no instructions)\n" if self._system is None else f"(instructions: {self._system})\n")

    def _save(self, name: str) -> None:
        if not name:
            raise InvalidArgumentError("/save names no file; give one")
        if not self._turns:
            raise InvalidArgumentError("nothing has been said that could be saved")
        path = Path(name).expanduser()
        line = json.dumps({"messages": [asdict(each) for each in (*self._opening(), *self._turns)]}, ensure_ascii=False)
        try:
            with path.open("w" if path in self._saved else "x", encoding="utf-8") as file:
                file.write(line + "\n")
        except FileExistsError:
            raise InvalidArgumentError(f"{name} exists; /save writes over nothing but what it wrote before") from None
        except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have; ~ of nobody
            raise InvalidArgumentError(f"{name} cannot be written: {error}") from None
        self._saved.add(path)
        _remark(f"({len(self._turns)} messages in {name})\n")


def _remark(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
