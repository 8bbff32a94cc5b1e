"""``generate``: the answer to a prompt."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, cast

from fathom_client._commands import exit_status, standard_input
from fathom_client._commands.command import add_command
from fathom_client._commands.connection import open_client
from fathom_client._commands.console import print_json, print_text
from fathom_client._commands.json_lines import LineForm, add_json_lines, answer_lines
from fathom_client._commands.sampling_flags import OPTIONS, add_answers, add_sampling, sampling_options
from fathom_client.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fathom_client._options import GenerateOptions
    from fathom_client._sync import Client

LINE: Final = LineForm(("prompt",), ("model", *OPTIONS))


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    added = add_command(
        commands,
        "generate",
        generate,
        "stream the answer to a prompt",
        '"Add 17 and 25."',
        '"A person." --json-schema @person.json',
        "--jsonl --max-tokens 64 < prompts.jsonl > answers.jsonl",
    )
    added.add_argument("prompt", metavar="PROMPT", nargs="?", help="the text, or - for standard input")
    added.add_argument("--json", action="store_true", help="print the whole answer as one JSON object instead")
    add_sampling(added)
    add_answers(added)
    add_json_lines(added, LINE)


def generate(options: argparse.Namespace) -> int:
    """Stream the answer to a prompt, or print several, or everything known of it as JSON."""
    sampling = sampling_options(options)
    if options.jsonl != (options.prompt is None):
        raise InvalidArgumentError("give either a PROMPT, or --jsonl and requests on standard input")
    with open_client(options) as client:
        if options.jsonl:
            return answer_lines(lambda line: answer_prompt(client, options.model, sampling, line), LINE, options)
        prompt = standard_input.read_text() if options.prompt == "-" else options.prompt
        if options.json:
            print_json(asdict(client.generate(options.model, prompt, **sampling)))
        elif (options.n or 1) > 1:
            for choice in client.generate(options.model, prompt, **sampling).choices:
                print_text(f"[{choice.index + 1}] {choice.text}")
        else:
            with client.stream(options.model, prompt, **sampling) as stream:
                for chunk in stream:
                    print_text(chunk.text, end="")
            print()
    return exit_status.DONE


def answer_prompt(client: "Client", model: str, sampling: "GenerateOptions", line: dict[str, Any]) -> dict[str, Any]:
    """The answer to a line of ``--jsonl``; the line's options go before the flags."""
    prompt = line.pop("prompt")
    return asdict(client.generate(line.pop("model", model), prompt, **line_options(sampling, line)))


def line_options(sampling: "GenerateOptions", line: dict[str, Any]) -> "GenerateOptions":
    """The flags' options with a line's in their place; raises InvalidArgumentError."""
    if isinstance(biases := line.get("logit_bias"), dict):  # JSON's keys are texts
        line = line | {"logit_bias": {_token_id(token): bias for token, bias in biases.items()}}
    return cast("GenerateOptions", {**sampling, **line})


def _token_id(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidArgumentError(f"logit_bias has the key {text!r}; give token ids") from None
