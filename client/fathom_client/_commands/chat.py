"""``chat``: a conversation, typed or piped."""

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from fathom_client._commands import exit_status, standard_input
from fathom_client._commands.command import add_command
from fathom_client._commands.connection import open_client
from fathom_client._commands.generate import line_options
from fathom_client._commands.json_lines import LineForm, add_json_lines, answer_lines
from fathom_client._commands.line_editor import LineEditor
from fathom_client._commands.sampling_flags import OPTIONS, add_sampling, sampling_options
from fathom_client.errors import FathomError

if TYPE_CHECKING:
    from fathom_client._commands.conversation import Conversation
    from fathom_client._options import GenerateOptions
    from fathom_client._sync import Client

LINE: Final = LineForm(("messages",), ("model", *OPTIONS))


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    added = add_command(
        commands,
        "chat",
        chat,
        "hold a conversation, line by line",
        "",
        '--system "Answer in one word." --temperature 0.7',
        "--jsonl < conversations.jsonl > answers.jsonl",
    )
    added.add_argument("--system", metavar="TEXT", help="instructions that come first in the conversation")
    add_sampling(added)
    add_json_lines(added, LINE)


def chat(options: argparse.Namespace) -> int:
    """Hold a conversation, or answer many of them."""
    from fathom_client._commands.conversation import Conversation

    sampling = sampling_options(options)
    with open_client(options) as client:
        if options.jsonl:
            return answer_lines(lambda line: answer_messages(client, options, sampling, line), LINE, options)
        conversation = Conversation(client, options.model, sampling, options.system)
        if standard_input.is_terminal():
            print(f"{options.model} at {options.url}. /help lists commands, Ctrl-C stops an answer, Ctrl-D leaves.")
            return _converse(conversation)
        for number, raw in enumerate(standard_input.raw_lines(), 1):
            if not conversation.take(standard_input.utf8_line(raw, number)):
                break
    return exit_status.DONE


def answer_messages(
    client: "Client", options: argparse.Namespace, sampling: "GenerateOptions", line: dict[str, Any]
) -> dict[str, Any]:
    """The answer to a line of ``--jsonl``; the line's options go before the flags."""
    messages = line.pop("messages")
    if options.system is not None and isinstance(messages, list) and messages:
        messages = [{"role": "system", "content": options.system}, *messages]
    return asdict(client.chat(line.pop("model", options.model), messages, **line_options(sampling, line)))


def _converse(conversation: "Conversation") -> int:
    """Hold the conversation in a terminal: Ctrl-C stops an answer, an error ends a turn, neither ends the session."""
    with LineEditor(conversation.commands) as editor:
        while True:
            try:
                line = editor.read("> ")
            except KeyboardInterrupt:
                print("\n(Ctrl-D leaves)")
                continue
            if line is None:
                print()
                return exit_status.DONE
            try:
                if not conversation.take(line):
                    return exit_status.DONE
            except KeyboardInterrupt:
                print("\n(stopped)")
            except FathomError as error:
                sys.stdout.flush()
                exit_status.report(error)
