"""``embed``, ``rerank`` and ``classify``: texts to vectors, scores and labels."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from fathom_client._commands import exit_status, standard_input
from fathom_client._commands.command import add_command
from fathom_client._commands.connection import open_client
from fathom_client._commands.console import is_terminal, print_table, short_text, short_vector
from fathom_client._commands.json_lines import (
    LineForm,
    Numbered,
    add_json_lines,
    answer_lines,
    check_concurrency,
    numbered_lines,
)
from fathom_client._commands.pipeline import in_order
from fathom_client.errors import FathomError, InvalidArgumentError

if TYPE_CHECKING:
    from fathom_client._sync import Client

Answer = dict[str, Any]
Encode = Callable[[list[str], dict[str, Any]], list[Answer]]
"""Answers texts, one object a text, as options say."""

EMBED_LINE: Final = LineForm(("text",), ("model", "prompt_name", "truncate", "timeout_s"))
CLASSIFY_LINE: Final = LineForm(("text",), ("model", "truncate", "timeout_s"))
RERANK_LINE: Final = LineForm(("documents",), ("query", "model", "truncate", "timeout_s"))

_STDIN: Final = ["-"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the commands."""
    added = add_command(
        commands,
        "embed",
        embed,
        "turn texts into vectors",
        '"How do I cook rice?" "Rice needs twice its volume of water."',
        "- < texts.txt > vectors.jsonl",
        "--jsonl < requests.jsonl > vectors.jsonl",
    )
    _add_texts(added)
    added.add_argument("--model", default="minilm", help="embedding model (default: %(default)s)")
    added.add_argument(
        "--prompt-name", metavar="NAME", help="the model's prompt before each text: query, document, ..."
    )
    _add_batching(added, EMBED_LINE)

    added = add_command(
        commands,
        "rerank",
        rerank,
        "order documents by how well they answer a query",
        '--model reranker "Who built the bridge?" "Eiffel built it." "It is long."',
        "--model reranker --jsonl < searches.jsonl",
    )
    added.add_argument("query", metavar="QUERY", nargs="?", help="the query")
    added.add_argument("documents", metavar="DOCUMENT", nargs="*", help="documents, or - for standard input's lines")
    added.add_argument("--model", required=True, help="reranking model")
    _add_batching(added, RERANK_LINE)

    added = add_command(
        commands,
        "classify",
        classify,
        "label texts",
        '--model mood "What a day!"',
        "--model mood - < reviews.txt",
    )
    _add_texts(added)
    added.add_argument("--model", required=True, help="classifying model")
    _add_batching(added, CLASSIFY_LINE)


def embed(options: argparse.Namespace) -> int:
    """Print each text's vector."""
    with open_client(options) as client:

        def encode(texts: list[str], given: dict[str, Any]) -> list[Answer]:
            result = client.embed(given.pop("model"), texts, **_checked(given))
            return [
                {"text": text, "num_input_tokens": count, "embedding": vector.tolist()}
                for text, count, vector in zip(texts, result.num_input_tokens, result.vectors, strict=True)
            ]

        return _run(
            encode, EMBED_LINE, options, lambda each: [short_text(each["text"]), short_vector(each["embedding"])]
        )


def classify(options: argparse.Namespace) -> int:
    """Print each text's label, and the probability of every label."""
    with open_client(options) as client:

        def encode(texts: list[str], given: dict[str, Any]) -> list[Answer]:
            result = client.classify(given.pop("model"), texts, **_checked(given))
            return [
                {"text": text, "label": label, "scores": dict(zip(result.labels, scores, strict=True))}
                for text, label, scores in zip(texts, result.top_labels, result.scores.tolist(), strict=True)
            ]

        return _run(
            encode,
            CLASSIFY_LINE,
            options,
            lambda each: [each["label"], f"{each['scores'][each['label']]:.3f}", short_text(each["text"])],
        )


def rerank(options: argparse.Namespace) -> int:
    """Print documents, the best first."""
    if options.jsonl == bool(options.documents):
        raise InvalidArgumentError("give either a QUERY and DOCUMENTs, or --jsonl and requests on standard input")
    flags = _flags(options) | {"query": options.query}
    with open_client(options) as client:
        if options.jsonl:
            return answer_lines(lambda line: {"results": _ranked(client, flags | line)}, RERANK_LINE, options)
        documents = standard_input.read_lines() if options.documents == _STDIN else options.documents
        ranked = _ranked(client, flags | {"documents": documents})
    if is_terminal():
        print_table([f"{each['score']:.3f}", short_text(each["document"], 100)] for each in ranked)
    else:
        _print_lines(ranked)
    return exit_status.DONE


def _ranked(client: "Client", given: dict[str, Any]) -> list[Answer]:
    documents = given.pop("documents")
    if not isinstance(documents, list):
        raise InvalidArgumentError(f"documents is a {type(documents).__name__}; give a list of strings")
    result = client.rerank(given.pop("model"), given.pop("query"), documents, **_checked(given))
    return [
        {"score": float(result.scores[position]), "position": position, "document": documents[position]}
        for position in result.order
    ]


def _run(encode: Encode, form: LineForm, options: argparse.Namespace, cells: Callable[[Answer], list[str]]) -> int:
    """Answer the texts of the command line, standard input's lines as they come, or its requests."""
    flags = _flags(options)
    if options.jsonl == bool(options.texts):
        raise InvalidArgumentError("give either TEXTs, or - for standard input's lines, or --jsonl for its requests")
    if options.jsonl:
        return answer_lines(lambda line: encode([line.pop("text")], flags | line)[0], form, options)
    if options.texts == _STDIN:

        def work(line: Numbered) -> list[Answer]:
            number, raw = line
            text = standard_input.utf8_line(raw, number)
            try:
                return encode([text], dict(flags))
            except FathomError as error:
                raise exit_status.with_place(error, f"line {number}") from None

        with closing(in_order(numbered_lines(), work, check_concurrency(options))) as results:
            for answers in results:
                _print_lines(answers)
        return exit_status.DONE
    answers = encode(options.texts, flags)
    if is_terminal():
        print_table(map(cells, answers))
    else:
        _print_lines(answers)
    return exit_status.DONE


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    names = ("model", "prompt_name", "truncate", "batch_size")
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """The options of a call, which checks the others itself."""
    if not isinstance(given["truncate"], bool):
        raise InvalidArgumentError(f"truncate is {given['truncate']!r}; give true or false")
    return given


def _print_lines(answers: list[Answer]) -> None:
    for answer in answers:
        print(json.dumps(answer, ensure_ascii=False))
    sys.stdout.flush()


def _add_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="the texts, or - for the lines of standard input")


def _add_batching(parser: argparse.ArgumentParser, form: LineForm) -> None:
    parser.add_argument("--truncate", action="store_true", help="cut texts that are too long instead of refusing them")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows in one request (default: the model's limit)")
    add_json_lines(parser, form)
