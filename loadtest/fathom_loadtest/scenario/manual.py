"""``docs/scenario.md``: every key of a scenario, its type, default and meaning, made from the types."""

from collections.abc import Iterator
from dataclasses import MISSING, is_dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from fathom_loadtest.scenario.key import TypedKey, keys_of, tag_of, variants_of
from fathom_loadtest.scenario.lengths import Length
from fathom_loadtest.scenario.loads import Load
from fathom_loadtest.scenario.scenario import Scenario
from fathom_loadtest.scenario.slo import SLO_NAMES, Slo
from fathom_loadtest.scenario.target import Target
from fathom_loadtest.scenario.task import TaskSpec

_HEAD: Final = """\
# Scenario files

<!-- Written by `fathom-load schema --format markdown` from the types in `fathom_loadtest/scenario`; change those. -->

`fathom-load run FILE.toml` runs what the file says; flags and `--set KEY=VALUE` override it. [loadtest.md](loadtest.md)
explains the shapes of load, [loadtest/scenarios](../loadtest/scenarios) holds examples. An editor completes and checks
a scenario by `docs/scenario.schema.json`, when its first line is `#:schema` and the path to that file.

A key that is not known, a value of another type or out of its range, and values that do not go together are refused
with the file, the key, the value and the remedy. Paths are relative to the file. Where a list of numbers is taken, a
single number is a list of one.
"""

_NAMES: Final[dict[Any, str]] = {
    str: "text", Path: "path", int: "whole number", float: "number", bool: "true or false",
}  # fmt: skip


def scenario_manual() -> str:
    """The manual in Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    yield from _table(Scenario)
    yield from _section("[target]", Target)
    for kind in get_args(Load):
        yield from _section(f"[load] with {_tag(kind)}", kind)
    yield from _section("[[tasks]]", TaskSpec)
    yield "## Lengths\n"
    yield "`input_tokens`, `output_tokens`, `turns` and `documents.tokens` are a number, or a table such as"
    yield '`{ distribution = "normal", mean = 512, stddev = 100 }`.\n'
    for kind in get_args(Length):
        yield f"### {_tag(kind)}\n"
        yield f"{_sentences(kind)}\n"
        yield from _table(kind)
    yield "## `[slos]`\n"
    yield "Objectives that a request keeps to count as good, each in milliseconds:"
    yield ", ".join(f"`{name}`" for name in SLO_NAMES) + ". A sweep climbs until they break.\n"


def _section(title: str, kind: type) -> Iterator[str]:
    yield f"## `{title}`\n" if "`" not in title else f"## {title}\n"
    yield f"{_sentences(kind)}\n"
    yield from _table(kind)
    for key in keys_of(kind).values():
        for inner in key.variants:
            if tag_of(inner) is None:
                yield f"### `{key.name}` of `{title.split()[0]}`\n"
                yield f"{_sentences(inner)}\n"
                yield from _table(inner)


def _tag(kind: type) -> str:
    tag = tag_of(kind)
    return "" if tag is None else f'{tag[0]} = "{tag[1]}"'


def _table(kind: type) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key in keys_of(kind).values():
        yield f"| `{key.name}` | {_kind(key)} | {_default(key)} | {key.key.help.replace('|', chr(92) + '|')} |"
    yield ""


def _kind(key: TypedKey) -> str:
    if get_origin(key.kind) is tuple:
        inner = get_args(key.kind)[0]
        if inner is Slo:
            return "table"
        return "list of tables" if variants_of(inner) else f"list of {_NAMES[inner]}s{_range(key)}"
    if key.variants:
        return "length" if key.kind == Length else "table"
    if get_origin(key.kind) is Literal:
        return ", ".join(f'`"{choice}"`' for choice in get_args(key.kind))
    return _NAMES[key.kind] + _range(key)


def _range(key: TypedKey) -> str:
    bounds = ((" ≥", key.key.minimum), (" >", key.key.above), (" ≤", key.key.maximum))
    return ",".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


def _default(key: TypedKey) -> str:
    if key.default is MISSING:
        return "none" if key.name == "target" else "needed"
    if key.default in (None, (), "") or is_dataclass(key.default):
        return "none"
    if isinstance(key.default, bool):
        return f"`{str(key.default).lower()}`"
    return f'`"{key.default}"`' if isinstance(key.default, str) else f"`{key.default:g}`"


def _sentences(kind: type) -> str:
    """A type's own docstring."""
    lines = [line.strip() for line in (kind.__doc__ or "").strip().splitlines()]
    return "\n".join(lines).replace("``", "`")
