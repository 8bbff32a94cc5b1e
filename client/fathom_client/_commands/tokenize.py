"""``tokenize``: a prompt as the model reads it, and back."""

import argparse
from typing import TYPE_CHECKING, Any, Final

from fathom_client._commands import exit_status, standard_input
from fathom_client._commands.command import add_command
from fathom_client._commands.connection import open_client
from fathom_client._commands.console import is_terminal, print_json, print_text
from fathom_client._commands.json_lines import LineForm, add_json_lines, answer_lines
from fathom_client.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fathom_client._sync import Client

LINE: Final = LineForm(("text", "messages", "token_ids"), ("model", "timeout_s"))


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    added = add_command(
        commands,
        "tokenize",
        tokenize,
        "turn a text into an LLM's token ids, or ids into text",
        '"Add 17 and 25."',
        "--count - < prompt.txt",
        "--decode 72 101 108",
        "--jsonl < conversations.jsonl",
    )
    added.add_argument("texts", metavar="TEXT", nargs="*", help="a text, - for standard input, or with --decode ids")
    added.add_argument("--model", default="chat", help="generating model (default: %(default)s)")
    what = added.add_mutually_exclusive_group()
    what.add_argument("--count", action="store_true", help="print the number of tokens alone")
    what.add_argument("--decode", action="store_true", help="print the text of token ids")
    add_json_lines(added, LINE)


def tokenize(options: argparse.Namespace) -> int:
    """Print a text's token ids, their number, or the text of ids."""
    if options.jsonl == bool(options.texts):
        raise InvalidArgumentError("give either a TEXT, or - for standard input, or --jsonl for its requests")
    if len(options.texts) > 1 and not options.decode:
        raise InvalidArgumentError(f"give one TEXT, in quotes, in place of {len(options.texts)}")
    with open_client(options) as client:
        if options.jsonl:
            return answer_lines(lambda line: answer_prompt(client, {"model": options.model} | line), LINE, options)
        given = [standard_input.read_text()] if options.texts == ["-"] else options.texts
        if options.decode:
            print_text(client.detokenize(options.model, _token_ids(given)))
        elif options.count:
            print(client.count_tokens(options.model, given[0]))
        else:
            token_ids = client.tokenize(options.model, given[0]).token_ids
            if is_terminal():
                print(f"{len(token_ids)} tokens: {' '.join(map(str, token_ids))}")
            else:
                print_json({"num_tokens": len(token_ids), "token_ids": token_ids})
    return exit_status.DONE


def answer_prompt(client: "Client", line: dict[str, Any]) -> dict[str, Any]:
    """The answer to a line of ``--jsonl``, whose model is known."""
    model, timeout_s = line["model"], line.get("timeout_s")
    if "token_ids" in line:
        return {"text": client.detokenize(model, line["token_ids"], timeout_s=timeout_s)}
    kind, prompt = ("text", line["text"]) if "text" in line else ("messages", line["messages"])
    if not isinstance(prompt, str if kind == "text" else list):
        expected = "a string" if kind == "text" else "a list of messages"
        raise InvalidArgumentError(f"{kind} is a {type(prompt).__name__}; give {expected}")
    result = client.tokenize(model, prompt, timeout_s=timeout_s)
    return {"num_tokens": len(result.token_ids), "token_ids": result.token_ids}


def _token_ids(texts: list[str]) -> list[int]:
    ids = []
    for word in " ".join(texts).split():
        try:
            ids.append(int(word))
        except ValueError:
            raise InvalidArgumentError(f"{word[:40]!r} is no token id; --decode takes integers") from None
    return ids
