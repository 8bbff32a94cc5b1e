"""``fathom-client``: generate, chat, embed, rerank, classify, and look at a server, from the command line."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, cast

from fathom_client._address import DEFAULT_URL
from fathom_client._flags import add_answers, add_sampling, sampling_options
from fathom_client._timeouts import Timeout
from fathom_client.errors import FathomError, InvalidArgumentError, InvalidRequestError, ModelNotFoundError

if TYPE_CHECKING:
    from fathom_client._results import ModelInfo
    from fathom_client._sync import Client

DEFAULT_TIMEOUT_S: Final = Timeout().request_s

USER_FAULT: Final = 2
SERVER_FAULT: Final = 1
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

_USER_FAULTS: Final = (InvalidArgumentError, InvalidRequestError, ModelNotFoundError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 2 for the caller's faults, 1 for the server's, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr] # a TextIOWrapper
    run = cast("Callable[[Client, argparse.Namespace], int]", options.run)
    try:
        from fathom_client._sync import Client  # grpc is slow to import, and --help does without

        with Client(options.url, timeout=options.timeout) as client:
            return run(client, options)
    except FathomError as error:
        return report(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit stays quiet
        return PIPE_CLOSED


def report(error: FathomError) -> int:
    """Print an error on one line; returns the exit status that goes with it."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return USER_FAULT if isinstance(error, _USER_FAULTS) else SERVER_FAULT


def generate(client: "Client", options: argparse.Namespace) -> int:
    """Stream the answer to a prompt, or print several, or everything known of it as JSON."""
    prompt = _stdin() if options.prompt == "-" else options.prompt
    sampling = sampling_options(options)
    if options.json:
        print(json.dumps(asdict(client.generate(options.model, prompt, **sampling)), ensure_ascii=False))
        return 0
    if (options.n or 1) > 1:
        for choice in client.generate(options.model, prompt, **sampling).choices:
            print(f"[{choice.index + 1}] {choice.text}")
        return 0
    with client.stream(options.model, prompt, **sampling) as stream:
        for chunk in stream:
            print(chunk.text, end="", flush=True)
    print()
    return 0


def chat(client: "Client", options: argparse.Namespace) -> int:
    """Hold a conversation."""
    from fathom_client._conversation import Conversation

    conversation = Conversation(client, options.model, sampling_options(options), options.system)
    if not sys.stdin.isatty():
        for raw in sys.stdin.buffer:
            if not conversation.take(_utf8(raw), sys.stdout):
                break
        return 0
    import readline  # noqa: F401 # gives input() a history and editing

    print(f"{options.model} at {options.url}. /reset forgets, /exit or Ctrl-D leaves, Ctrl-C stops an answer.")
    while True:
        try:
            if not conversation.take(input("> "), sys.stdout):
                return 0
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print("\n(stopped)")
        except FathomError as error:
            report(error)


def embed(client: "Client", options: argparse.Namespace) -> int:
    """Print one line of JSON a text."""
    texts = _texts(options.texts)
    embeddings = client.embed(
        options.model,
        texts,
        prompt_name=options.prompt_name,
        truncate=options.truncate,
        batch_size=options.batch_size,
    )
    for text, vector, count in zip(texts, embeddings.vectors, embeddings.num_input_tokens, strict=True):
        line = {"text": text, "num_input_tokens": count, "embedding": vector.tolist()}
        print(json.dumps(line, ensure_ascii=False))
    return 0


def rerank(client: "Client", options: argparse.Namespace) -> int:
    """Print one line of JSON a document, the best first."""
    documents = _texts(options.documents)
    result = client.rerank(
        options.model, options.query, documents, truncate=options.truncate, batch_size=options.batch_size
    )
    for position in result.order:
        line = {"score": float(result.scores[position]), "position": position, "document": documents[position]}
        print(json.dumps(line, ensure_ascii=False))
    return 0


def classify(client: "Client", options: argparse.Namespace) -> int:
    """Print one line of JSON a text."""
    texts = _texts(options.texts)
    result = client.classify(options.model, texts, truncate=options.truncate, batch_size=options.batch_size)
    for text, label, scores in zip(texts, result.top_labels, result.scores.tolist(), strict=True):
        line = {"text": text, "label": label, "scores": dict(zip(result.labels, scores, strict=True))}
        print(json.dumps(line, ensure_ascii=False))
    return 0


def status(client: "Client", options: argparse.Namespace) -> int:
    """Print what the server is and how its models are; the exit status tells whether it is ready."""
    server, ready = client.server_metadata(), client.is_ready()
    print(f"{server.name} {server.version} at {options.url} is {'ready' if ready else 'not ready'}")
    _print_models(client.models(), with_reason=True)
    return 0 if ready else SERVER_FAULT


def models(client: "Client", options: argparse.Namespace) -> int:
    """Print the models of the server's repository."""
    _print_models(client.models(), with_reason=False)
    return 0


def _print_models(infos: "Sequence[ModelInfo]", *, with_reason: bool) -> None:
    width = max((len(info.name) for info in infos), default=0)
    for info in infos:
        reason = f"  {' '.join(info.reason.split())}" if with_reason else ""
        print(f"{info.name:<{width}}  {info.version or '-':>3}  {info.state or 'NOT LOADED'}{reason}".rstrip())


def _texts(given: list[str]) -> list[str]:
    return _stdin().removesuffix("\n").split("\n") if given == ["-"] else given


def _stdin() -> str:
    return _utf8(sys.stdin.buffer.read())


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"standard input is not UTF-8: byte {raw[error.start]:#04x} at position {error.start}; convert it first"
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fathom-client", description="Use models that Fathom serves on Triton.")
    _add_connection(parser, DEFAULT_URL, DEFAULT_TIMEOUT_S)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[["Client", argparse.Namespace], int], help_: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.")
        _add_connection(added, argparse.SUPPRESS, argparse.SUPPRESS)  # may stand before or after the command
        added.set_defaults(run=run)
        return added

    added = command("generate", generate, "stream the answer to a prompt")
    added.add_argument("prompt", metavar="PROMPT", help="the text, or - for standard input")
    added.add_argument("--json", action="store_true", help="print the whole answer as one JSON object instead")
    add_sampling(added)
    add_answers(added)

    added = command("chat", chat, "hold a conversation, line by line")
    added.add_argument("--system", metavar="TEXT", help="instructions that come first in the conversation")
    add_sampling(added)

    added = command("embed", embed, "print the embeddings of texts as JSON lines")
    added.add_argument("texts", metavar="TEXT", nargs="+", help="the texts, or - for the lines of standard input")
    added.add_argument("--model", default="minilm", help="embedding model (default: %(default)s)")
    added.add_argument(
        "--prompt-name", metavar="NAME", help="the model's prompt before each text: query, document, ..."
    )
    _add_batching(added)

    added = command("rerank", rerank, "print documents as JSON lines, the one that answers a query best first")
    added.add_argument("query", metavar="QUERY", help="the query")
    added.add_argument("documents", metavar="DOCUMENT", nargs="+", help="documents, or - for standard input's lines")
    added.add_argument("--model", required=True, help="reranking model")
    _add_batching(added)

    added = command("classify", classify, "print the labels of texts as JSON lines")
    added.add_argument("texts", metavar="TEXT", nargs="+", help="the texts, or - for the lines of standard input")
    added.add_argument("--model", required=True, help="classifying model")
    _add_batching(added)

    command("status", status, "show the server and its models; exit 1 if it is not ready")
    command("models", models, "list the models")
    return parser


def _add_connection(parser: argparse.ArgumentParser, url: str, timeout_s: float | str | None) -> None:
    parser.add_argument(
        "--url", default=url, metavar="HOST:PORT", help=f"the server's gRPC address (default: {DEFAULT_URL})"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=timeout_s,
        metavar="SECONDS",
        help=f"time for a whole answer (default: {DEFAULT_TIMEOUT_S:g})",
    )


def _add_batching(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--truncate", action="store_true", help="cut texts that are too long instead of refusing them")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows in one request (default: the model's limit)")


if __name__ == "__main__":
    sys.exit(main())
