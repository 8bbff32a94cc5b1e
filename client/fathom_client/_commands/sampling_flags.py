"""The flags for sampling, and the options that they give."""

import argparse
from pathlib import Path
from typing import Final, cast

from fathom_client._options import GenerateOptions
from fathom_client.errors import InvalidArgumentError

OPTIONS: Final = tuple(GenerateOptions.__annotations__)
"""What a line of ``--jsonl`` may say of its answer: all that the client takes."""

_FILE: Final = "@"


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add what every answer takes."""
    parser.add_argument("--model", default="chat", help="generating model (default: %(default)s)")
    group = parser.add_argument_group("sampling")
    group.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of the answer")
    group.add_argument("--min-tokens", type=int, metavar="N", help="nothing ends the answer before")
    group.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    group.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens, 0 for all")
    group.add_argument("--top-p", type=float, metavar="P", help="sample among the likeliest tokens of mass P")
    group.add_argument("--min-p", type=float, metavar="P", help="only tokens P times as probable as the likeliest")
    group.add_argument("--seed", type=int, metavar="N", help="repeats a sampled answer")
    group.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1 repeats less")
    group.add_argument("--presence-penalty", type=float, metavar="R", help="above 0 avoids what the answer has")
    group.add_argument("--frequency-penalty", type=float, metavar="R", help="above 0 avoids it the more, the oftener")
    group.add_argument("--stop", action="append", metavar="TEXT", help="end the answer before this text; repeatable")
    group.add_argument("--bad-word", action="append", dest="bad_words", metavar="TEXT", help="never say it; repeatable")
    group.add_argument("--priority", type=int, metavar="N", help="the lower goes first (default: 0)")
    structure = parser.add_argument_group("structure of the answer").add_mutually_exclusive_group()
    structure.add_argument("--json-schema", metavar="JSON", help="JSON of this schema; @FILE reads it")
    structure.add_argument("--json-object", action="store_true", help="any JSON object")
    structure.add_argument("--regex", metavar="REGEX", help="text that matches")
    structure.add_argument("--choice", action="append", metavar="TEXT", help="one of these texts; repeatable")
    structure.add_argument("--grammar", metavar="GRAMMAR", help="text of this context-free grammar; @FILE reads it")


def add_answers(parser: argparse.ArgumentParser) -> None:
    """Add what tells how many answers there are and what is told of them."""
    group = parser.add_argument_group("answers")
    group.add_argument("-n", type=int, metavar="N", help="give N answers, each behind its number")
    group.add_argument("--best-of", type=int, metavar="N", help="choose them among N; with --json")
    group.add_argument("--logprobs", type=int, metavar="N", help="tokens' and N likeliest ones' too; with --json")
    group.add_argument("--prompt-logprobs", type=int, metavar="N", help="the same of the prompt; with --json")
    group.add_argument("--echo", action="store_true", help="print the prompt before each answer")


def sampling_options(options: argparse.Namespace) -> GenerateOptions:
    """The options that the flags give; raises InvalidArgumentError for a file that cannot be read."""
    names = (
        *("max_tokens", "min_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "repetition_penalty"),
        *("presence_penalty", "frequency_penalty", "stop", "bad_words", "priority", "json_object", "regex", "choice"),
        *("n", "best_of", "logprobs", "prompt_logprobs", "echo"),
    )
    given = {name: getattr(options, name) for name in names if hasattr(options, name)}
    given |= {name: _text(name, getattr(options, name)) for name in ("json_schema", "grammar")}
    return cast("GenerateOptions", {name: value for name, value in given.items() if value is not None})


def _text(name: str, value: str | None) -> str | None:
    if value is None or not value.startswith(_FILE):
        return value
    try:
        return Path(value.removeprefix(_FILE)).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or no name that a file can have
        flag = name.replace("_", "-")
        raise InvalidArgumentError(f"--{flag} names a file that cannot be read: {error}") from None
