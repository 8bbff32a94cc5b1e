"""``embed``, ``rerank`` and ``classify``: texts to vectors, scores and labels."""

import argparse
import itertools
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from fathom_client._commands import exit_status, standard_input
from fathom_client._commands.command import add_command
from fathom_client._commands.connection import open_client
from fathom_client._commands.console import is_terminal, print_json, print_table, short_text, short_vector
from fathom_client._commands.json_lines import (
    LineForm,
    Numbered,
    add_json_lines,
    answer_lines,
    check_concurrency,
    numbered_groups,
)
from fathom_client._commands.pipeline import in_order
from fathom_client.errors import FathomError, InvalidArgumentError

if TYPE_CHECKING:
    from fathom_client._results import Classification, Embeddings
    from fathom_client._sync import Client

Answer = dict[str, Any]
Outcome = Answer | FathomError
Encode = Callable[[list[str], dict[str, Any]], list[Outcome]]
"""Answers texts as options say, an outcome a text."""

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

        def encode(texts: list[str], given: dict[str, Any]) -> list[Outcome]:
            outcomes = client.embed_many(given.pop("model"), texts, **_checked(given))
            return [_embedded(*each) for each in zip(texts, outcomes, strict=True)]

        return _run(
            encode, EMBED_LINE, options, lambda each: [short_text(each["text"]), short_vector(each["embedding"])]
        )


def classify(options: argparse.Namespace) -> int:
    """Print each text's label, and the probability of every label."""
    with open_client(options) as client:

        def encode(texts: list[str], given: dict[str, Any]) -> list[Outcome]:
            outcomes = client.classify_many(given.pop("model"), texts, **_checked(given))
            return [_classified(*each) for each in zip(texts, outcomes, strict=True)]

        return _run(
            encode,
            CLASSIFY_LINE,
            options,
            lambda each: [each["label"], f"{each['scores'][each['label']]:.3f}", short_text(each["text"])],
        )


def _embedded(text: str, result: "Embeddings | FathomError") -> Outcome:
    if isinstance(result, FathomError):
        return result
    vector = result.vectors[0].tolist()
    return {"text": text, "num_input_tokens": result.num_input_tokens[0], "embedding": vector}


def _classified(text: str, result: "Classification | FathomError") -> Outcome:
    if isinstance(result, FathomError):
        return result
    scores = dict(zip(result.labels, result.scores[0].tolist(), strict=True))
    return {"text": text, "label": result.top_labels[0], "scores": scores}


def rerank(options: argparse.Namespace) -> int:
    """Print documents, the best first."""
    if options.jsonl == bool(options.documents):
        raise InvalidArgumentError("give either a QUERY and DOCUMENTs, or --jsonl and requests on standard input")
    flags = _flags(options) | {"query": options.query}
    with open_client(options) as client:
        if options.jsonl:
            return answer_lines(lambda line: {"results": ranked(client, flags | line)}, RERANK_LINE, options)
        documents = standard_input.read_lines() if options.documents == _STDIN else options.documents
        answers = ranked(client, flags | {"documents": documents})
    if is_terminal():
        print_table([f"{each['score']:.3f}", short_text(each["document"], 100)] for each in answers)
    else:
        _print_lines(answers)
    return exit_status.DONE


def ranked(client: "Client", given: dict[str, Any]) -> list[Answer]:
    """The documents of a request, the best first."""
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
        return answer_lines(lambda line: _result(encode([line.pop("text")], flags | line)[0]), form, options)
    if options.texts == _STDIN:
        with closing(
            in_order(numbered_groups(), lambda lines: _encode_lines(encode, lines, flags), check_concurrency(options))
        ) as groups:
            for outcome in itertools.chain.from_iterable(groups):
                print_json(_result(outcome))
        return exit_status.DONE
    answers = list(map(_result, encode(options.texts, flags)))
    if is_terminal():
        print_table(map(cells, answers))
    else:
        _print_lines(answers)
    return exit_status.DONE


def _encode_lines(encode: Encode, lines: list[Numbered], flags: dict[str, Any]) -> list[Outcome]:
    """An outcome a line; lines that came together go together."""
    outcomes: dict[int, Outcome] = {}
    texts: dict[int, str] = {}
    for number, raw in lines:
        try:
            texts[number] = standard_input.utf8_line(raw, number)
        except InvalidArgumentError as error:
            outcomes[number] = error
    encoded = encode(list(texts.values()), dict(flags)) if texts else []
    for number, outcome in zip(texts, encoded, strict=True):
        if isinstance(outcome, FathomError):
            outcomes[number] = exit_status.with_place(outcome, f"line {number}")
        else:
            outcomes[number] = outcome
    return [outcomes[number] for number, _ in lines]


def _result(outcome: Outcome) -> Answer:
    if isinstance(outcome, FathomError):
        raise outcome
    return outcome


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
        print_json(answer)


def _add_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="the texts, or - for the lines of standard input")


def _add_batching(parser: argparse.ArgumentParser, form: LineForm) -> None:
    parser.add_argument("--truncate", action="store_true", help="cut texts that are too long instead of refusing them")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows in one request (default: the model's limit)")
    add_json_lines(parser, form)
