"""``fathom-load twin``: serve a deployment's twin, with times and faults that are set instead of weights."""

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from fathom_loadtest.errors import TwinError

HELP: Final = "serve a twin of a deployment: the same models over real Triton, times and faults as you set them"

_MODEL_FLAGS: Final = {
    "ttft_ms": "time to first token from admission, in ms (default 50)",
    "itl_ms": "time from token to token, in ms (default 10)",
    "output_tokens": "length of an answer that max_tokens does not cut (default 128)",
    "tokens_per_response": "tokens that travel together after the first (default 1)",
    "max_batch": "answers at once (default 16)",
    "max_queue": "requests that may wait; one more is refused (default 256)",
    "stall_rate": "share of answers that fall silent at some token",
    "stall_s": "how long (default: until the caller leaves)",
    "break_rate": "share of answers that break off with INTERNAL",
    "cut_rate": "share of answers whose stream ends before the answer",
}
_INTEGERS: Final = ("tokens_per_response", "max_batch", "max_queue")
_DISTRIBUTIONS: Final = ("ttft_ms", "itl_ms", "output_tokens", "latency_ms")
_PORTS: Final = ("grpc", "http", "metrics")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.epilog = (
        "Times and lengths are a number, normal:MEAN,STDDEV or lognormal:MEAN,STDDEV. When the models are ready, one "
        "line of JSON with the ports goes to stdout. SIGTERM or Ctrl-C stops. A request overrides settings by request "
        "parameters: docs/twin.md."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of models, in place of the flags below")
    chat = parser.add_argument_group("chat, an LLM")
    for name, text in _MODEL_FLAGS.items():
        kind = int if name in _INTEGERS else str if name in _DISTRIBUTIONS else float
        chat.add_argument(_flag(name), type=kind, help=text)
    chat.add_argument(
        "--error", action="append", metavar="CODE=SHARE", help="share of requests refused by this gRPC code; repeatable"
    )
    encoder = parser.add_argument_group("minilm, an embedding model")
    encoder.add_argument("--latency-ms", help="time of a batch, in ms (default 5)")
    parser.add_argument("--seed", type=int, help="of what is drawn by chance (default 0)")
    serve = parser.add_argument_group("serving")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    serve.add_argument("--ports", choices=["auto"], help="take free ports where no flag names one")
    for port in _PORTS:
        serve.add_argument(f"--{port}-port", type=int, metavar="N", help="(default: Triton's usual one)")
    serve.add_argument("--ports-file", type=Path, metavar="FILE", help="write the ports there while the twin is ready")
    serve.add_argument(
        "--drain-s", type=float, default=5.0, metavar="S", help="seconds for running answers at the end (default 5)"
    )
    serve.add_argument(
        "--log-level", choices=["info", "warning", "error"], default="warning", help="of Triton (default %(default)s)"
    )
    serve.add_argument("--write-only", type=Path, metavar="DIR", help="write the model repository there and end")


def main(options: argparse.Namespace, _command: str) -> int:
    """Serve until asked to stop; gives the exit status. Raises TwinError."""
    settings = _settings(options)
    from fathom_loadtest.twin.repository import write_repository

    if options.write_only is not None:
        write_repository(settings, options.write_only)
        print(options.write_only)  # noqa: T201
        return 0
    from fathom_loadtest.twin.process import check_launcher, serve_twin

    check_launcher()
    with tempfile.TemporaryDirectory(prefix="fathom-twin-") as folder:
        repository = Path(folder) / "repository"
        write_repository(settings, repository)
        for model in settings.models:
            print(f"twin of {model.summary()}", file=sys.stderr)  # noqa: T201
        return serve_twin(repository, _serve_flags(options))


def _settings(options: argparse.Namespace) -> Any:
    from fathom_loadtest.twin.settings import TwinSettings, model_from_json

    given = {name: value for name in _MODEL_FLAGS if (value := getattr(options, name)) is not None}
    others = [name for name in ("error", "latency_ms", "seed") if getattr(options, name) is not None]
    if options.config is not None:
        if given or others:
            raise TwinError(f"--config and {_flag(next(iter([*given, *others])))} are both given; put it in the file")
        return TwinSettings.load(options.config)
    if options.error is not None:
        given["errors"] = dict(_share(each) for each in options.error)
    encoder = {"task": "embed"} | ({} if options.latency_ms is None else {"latency_ms": options.latency_ms})
    try:
        return TwinSettings((model_from_json(given), model_from_json(encoder)), options.seed or 0)
    except TwinError as error:  # its message begins with the key, which here is a flag
        raise TwinError(re.sub(r"^\w+(?=:| is)", lambda key: _flag(key[0]), str(error))) from None


def _share(text: str) -> tuple[str, float]:
    code, _, share = text.partition("=")
    try:
        return code, float(share)
    except ValueError:
        raise TwinError(f"--error {text!r} is not CODE=SHARE, for example UNAVAILABLE=0.05") from None


def _serve_flags(options: argparse.Namespace) -> list[str]:
    flags = ["--host", options.host, "--drain-s", str(options.drain_s), "--log-level", options.log_level]
    if options.ports is not None:
        flags += ["--ports", options.ports]
    for port in _PORTS:
        if (number := getattr(options, f"{port}_port")) is not None:
            flags += [f"--{port}-port", str(number)]
    if options.ports_file is not None:
        flags += ["--ports-file", str(options.ports_file)]
    return flags


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
