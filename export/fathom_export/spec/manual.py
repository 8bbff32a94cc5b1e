"""``docs/spec.md``: every key of a bundle, its type, default and meaning, made from the types."""

from collections.abc import Iterator
from dataclasses import MISSING
from typing import Any, Final, get_args, get_origin

from fathom_export.spec.bundle import DEFAULT_REPOSITORY, DEVICES_KEY, MODELS_KEY, REPOSITORY_KEY
from fathom_export.spec.device import DeviceSpec
from fathom_export.spec.key import TypedKey, keys_of
from fathom_export.spec.model_spec import DEFAULT_ENGINE, ENGINES, KINDS, task_of
from fathom_export.spec.schema import DEVICES_HELP, ENGINE_HELP, MODELS_HELP, REPOSITORY_HELP, TASK_HELP

_HEAD: Final = """\
# bundle.toml

<!-- Written by `fathom-export schema --format markdown` from the types in `fathom_export/spec`; change those. -->

The one file that describes a deployment. `fathom-export bundle.toml` builds what it says, `fathom-export --check`
tells where the repository differs from it. An editor completes and checks it by `docs/bundle.schema.json`, when its
first line is `#:schema docs/bundle.schema.json`.

A key that is not known, a value of another type or out of its range, and values that do not go together are refused
with the file, the key, the value and the remedy.
"""

_NAMES: Final[dict[Any, str]] = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def bundle_manual() -> str:
    """The manual in Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    yield from _rows(
        [
            (REPOSITORY_KEY, "text", f'`"{DEFAULT_REPOSITORY}"`', REPOSITORY_HELP),
            (MODELS_KEY, "list of tables", "needed", MODELS_HELP),
            (DEVICES_KEY, "list of tables", "none", DEVICES_HELP),
        ]
    )
    for kind, spec in KINDS.items():
        own = [("task", f'`"{task_of(kind)}"`', "needed", TASK_HELP)]
        title = f'`task = "{task_of(kind)}"`'
        if kind in ENGINES:
            title += f' and `engine = "{kind}"`'
            own.append(("engine", f'`"{kind}"`', "needed", ENGINE_HELP))
        elif kind == "generate":
            names = ", ".join(f'`"{engine}"`' for engine in ENGINES)
            own.append(("engine", names, f'`"{DEFAULT_ENGINE}"`', ENGINE_HELP))
        yield f"## `[[models]]` with {title}\n"
        yield f"{_sentence(spec)}\n"
        keys = keys_of(spec)
        yield from _rows([*own, *(_row(key) for key in keys.values())])
        for key in keys.values():
            if key.subtable is not None:
                yield f"### `{key.name}` of `{kind}`\n"
                yield f"{key.key.help[:1].upper()}{key.key.help[1:]}. As `{key.name} = {{ ... }}`, or as a table"
                yield f"`[models.{key.name}]` below its model.\n"
                yield from _rows([_row(inner) for inner in keys_of(key.subtable).values()])
    yield f"## `[[{DEVICES_KEY}]]`\n"
    yield f"{_sentence(DeviceSpec)}\n"
    yield from _rows([_row(key) for key in keys_of(DeviceSpec).values()])


def _rows(rows: list[tuple[str, str, str, str]]) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, kind, default, help_text in rows:
        yield f"| `{name}` | {kind} | {default} | {help_text} |"
    yield ""


def _row(key: TypedKey) -> tuple[str, str, str, str]:
    return key.name, _kind(key), _default(key), key.key.help.replace("|", "\\|")


def _kind(key: TypedKey) -> str:
    if key.subtable is not None:
        return "table"
    if key.choices:
        return ", ".join(f'`"{choice}"`' for choice in key.choices)
    bound = ""
    if key.key.minimum is not None:
        bound = f" ≥ {key.key.minimum}"
    if key.key.above is not None:
        bound = f" > {key.key.above}"
    if get_origin(key.kind) is tuple:
        return f"list of {_NAMES[get_args(key.kind)[0]]}s{bound}"
    if key.is_free:
        return "table"
    if key.kind not in _NAMES:
        return f"table of {_NAMES[get_args(key.kind)[1]]}s{bound}"
    return _NAMES[key.kind] + bound


def _default(key: TypedKey) -> str:
    if key.default is MISSING:
        return "needed"
    if isinstance(key.default, bool):
        return f"`{str(key.default).lower()}`"
    if isinstance(key.default, str):
        return f'`"{key.default}"`'
    if isinstance(key.default, int | float):
        return f"`{key.default}`"
    return "none"


def _sentence(spec: type) -> str:
    """A spec's own first sentence."""
    return (spec.__doc__ or "").strip().splitlines()[0]
