"""``values.yaml`` with its comments: what each value is, and why."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.chart.errors import ChartError

ANNOTATION: Final = "@schema "


@dataclass(frozen=True, slots=True)
class Value:
    """A value at ``path``; ``annotation`` is what its comment adds to the type that ``default`` shows.

    ``children`` are the values of a map that has keys of its own. ``explanation`` is one paragraph.
    """

    path: tuple[str, ...]
    default: Any
    explanation: str
    annotation: dict[str, Any]
    children: tuple["Value", ...]


def read_values(file: Path) -> tuple[Value, ...]:
    """The values of a file, in its order; raises ChartError for one that nothing explains."""
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ChartError(f"{file} is no map of values")
    return tuple(_values_of(root, yaml.safe_load(text), (), text.splitlines(), file))


def leaves(values: tuple[Value, ...]) -> Iterator[Value]:
    """The values that have none below them."""
    for value in values:
        if value.children:
            yield from leaves(value.children)
        else:
            yield value


def _values_of(
    node: yaml.MappingNode, data: dict[str, Any], path: tuple[str, ...], lines: list[str], file: Path
) -> Iterator[Value]:
    for key, content in node.value:
        here = (*path, key.value)
        default = data[key.value]
        explanation, annotation = _comment_above(key.start_mark.line, lines, ".".join(here), file)
        children: tuple[Value, ...] = ()
        if isinstance(content, yaml.MappingNode) and content.value and not annotation:
            children = tuple(_values_of(content, default, here, lines, file))
        yield Value(here, default, explanation, annotation, children)


def _comment_above(line: int, lines: list[str], name: str, file: Path) -> tuple[str, dict[str, Any]]:
    """The paragraph and the annotation right above a line (numbered from 0)."""
    block: list[str] = []
    for above in reversed(lines[:line]):
        if not above.lstrip().startswith("#"):
            break
        block.insert(0, above.strip().removeprefix("#").strip())
    annotation: dict[str, Any] = {}
    words = []
    for each in block:
        if not each.startswith(ANNOTATION):
            words.append(each)
            continue
        try:
            annotation |= json.loads(each.removeprefix(ANNOTATION))
        except ValueError as error:
            raise ChartError(f"{file}: the @schema line of {name} is no JSON: {error}") from error
    if not words:
        raise ChartError(f"{file}, line {line + 1}: nothing explains {name}; write its reason in a comment above it")
    return " ".join(words), annotation
