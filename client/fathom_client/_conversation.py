"""A conversation on the command line: its history, its commands, its answers."""

from typing import TextIO

from fathom_client._options import GenerateOptions, Message
from fathom_client._sync import Client


class Conversation:
    """Turns with one model. A turn whose answer did not come to its end is not remembered."""

    def __init__(self, client: Client, model: str, options: GenerateOptions, system: str | None) -> None:
        self._client = client
        self._model = model
        self._options = options
        self._opening = () if system is None else (Message("system", system),)
        self._turns: tuple[Message, ...] = self._opening

    def take(self, line: str, out: TextIO) -> bool:
        """Answer a line, or obey it; false if it ends the conversation. Raises FathomError."""
        line = line.strip()
        if line == "/exit":
            return False
        if line == "/reset":
            self._turns = self._opening
            out.write("(forgotten)\n")
        elif line.startswith("/"):
            out.write(f"({line.split()[0]} is no command; there are /reset and /exit)\n")
        elif line:
            self._answer(line, out)
        out.flush()
        return True

    def _answer(self, line: str, out: TextIO) -> None:
        asked = (*self._turns, Message("user", line))
        with self._client.stream_chat(self._model, asked, **self._options) as stream:
            for chunk in stream:
                out.write(chunk.text)
                out.flush()
            out.write("\n")
            self._turns = (*asked, Message("assistant", stream.result().text))
