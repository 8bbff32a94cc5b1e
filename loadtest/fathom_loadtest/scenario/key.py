"""A key of a scenario: its type, range and meaning, written once, in the annotation of a dataclass's field.

The reader checks values against it; the JSON schema and the manual are made from it. A type that may be one of several
tables is a union of dataclasses, told apart by the key that ``TAGS`` names.
"""

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from fathom_loadtest.errors import ScenarioError

MAX_NUMBER: Final = 1 << 53
"""Numbers stay below this: JSON keeps whole numbers exactly up to here."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a key means, in words that follow its name, and the range of its numbers."""

    help: str
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class TypedKey:
    """A key with its name, its Python type without None, and its default (``MISSING`` where it must be given)."""

    name: str
    kind: Any
    key: Key
    default: Any

    @property
    def variants(self) -> tuple[type, ...]:
        """The dataclasses whose tables it may be: one, several that a tag tells apart, or none."""
        return variants_of(self.kind)


def variants_of(kind: Any) -> tuple[type, ...]:
    """The dataclasses of a type or of a union of them."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return tuple(part for part in parts if isinstance(part, type) and is_dataclass(part))


def tag_of(table: type) -> tuple[str, str] | None:
    """The key that tells a table from its alternatives, and the value that it has in this one."""
    return getattr(table, "TAG", None)


def keys_of(table: type) -> dict[str, TypedKey]:
    """The keys of a dataclass by name, in its order."""
    hints = get_type_hints(table, include_extras=True)
    keys = {}
    for field in fields(table):
        hint = hints[field.name]
        kind, key = get_args(hint)[:2] if get_origin(hint) is Annotated else (hint, Key(""))
        default = field.default if field.default_factory is MISSING else field.default_factory()
        keys[field.name] = TypedKey(field.name, _without_none(kind), key, default)
    return keys


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType) or NoneType not in get_args(kind):
        return kind
    return Union[tuple(part for part in get_args(kind) if part is not NoneType)]  # noqa: UP007 - made at run time


def check_ranges(values: object) -> None:
    """Raise ScenarioError for the first number of a dataclass that is out of its key's range."""
    for key in keys_of(type(values)).values():
        value = getattr(values, key.name)
        for place, number in enumerate(value) if isinstance(value, tuple) else ((None, value),):
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_range(key.key, number, key.name if place is None else f"{key.name}[{place}]")


def read_table(table: type, raw: object, folder: Path, *, also: Collection[str] = ()) -> Any:
    """Build a dataclass from a TOML table; texts that stand for files are taken relative to ``folder``.

    ``also`` are keys that the table may have besides. Raises ScenarioError giving key, value and remedy.
    """
    keys = keys_of(table)
    if not isinstance(raw, Mapping):
        raise ScenarioError(f"is {raw!r}; it must be a table with {' and '.join(_needed(keys)) or 'keys of its own'}")
    _refuse_unknown(raw, (*also, *keys))
    values = {}
    for key in keys.values():
        if key.name in raw:
            values[key.name] = _read_value(key.kind, key.key, raw[key.name], key.name, folder)
        elif key.default is MISSING:
            raise ScenarioError(f"is missing; it is {key.key.help}", key.name)
    return table(**values)


def read_variant(kinds: Collection[type], raw: object, folder: Path) -> Any:
    """Build the one of several dataclasses that the table's tag names. Raises ScenarioError."""
    tags = {tag[1]: kind for kind in kinds if (tag := tag_of(kind)) is not None}
    name = next(tag[0] for kind in kinds if (tag := tag_of(kind)) is not None)
    if not isinstance(raw, Mapping):
        raise ScenarioError(f"is {raw!r}; it must be a table with {name} = one of {', '.join(tags)}")
    if name not in raw:
        raise ScenarioError(f"is missing; valid values: {', '.join(tags)}", name)
    return read_table(tags[_read_choice(raw[name], name, tags)], raw, folder, also=(name,))


def _needed(keys: Mapping[str, TypedKey]) -> list[str]:
    return [key.name for key in keys.values() if key.default is MISSING]


def _refuse_unknown(raw: Iterable[str], known: Collection[str]) -> None:
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(known)}"
            raise ScenarioError(f"is not a known key; {hint}", key)


def _read_value(kind: Any, key: Key, value: object, name: str, folder: Path) -> Any:
    variants = variants_of(kind)
    if variants:
        try:
            shorthand = getattr(variants[0], "SHORTHAND", None)
            if shorthand is not None and not isinstance(value, Mapping):
                return read_table(variants[0], {shorthand: value}, folder)
            if len(variants) == 1:
                return read_table(variants[0], value, folder)
            return read_variant(variants, value, folder)
        except ScenarioError as error:
            if shorthand is not None and error.key == shorthand and not isinstance(value, Mapping):
                raise ScenarioError(error.complaint, name) from error
            raise error.under(name) from error
    if get_origin(kind) is Literal:
        return _read_choice(value, name, get_args(kind))
    if get_origin(kind) is tuple:
        return _read_list(get_args(kind)[0], key, value, name, folder)
    return _read_scalar(kind, key, value, name, folder)


def _read_list(kind: Any, key: Key, value: object, name: str, folder: Path) -> tuple[Any, ...]:
    if variants_of(kind):
        if (read := getattr(kind, "read", None)) is not None:  # a table of its own form
            try:
                return tuple(read(value))
            except ScenarioError as error:
                raise error.under(name) from error
        if not isinstance(value, list):
            raise ScenarioError(f"is {value!r}; it must be a list of tables, such as [[{name}]]", name)
        return tuple(_read_value(kind, key, entry, f"{name}[{place}]", folder) for place, entry in enumerate(value))
    if not isinstance(value, list):
        value = [value]  # one value is a list of one
    return tuple(_read_scalar(kind, key, entry, f"{name}[{place}]", folder) for place, entry in enumerate(value))


def _read_scalar(kind: Any, key: Key, value: object, name: str, folder: Path) -> Any:
    if kind is bool:
        if not isinstance(value, bool):
            raise ScenarioError(f"is {value!r}; it must be true or false", name)
        return value
    if kind is Path:
        if isinstance(value, Path):  # named by a flag: relative to the working directory
            return value
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ScenarioError(f"is {value!r}; it must name a file", name)
        return folder / value
    if kind is str:
        if not isinstance(value, str) or not value:
            raise ScenarioError(f"is {value!r}; it must be a text that is not empty", name)
        return value
    whole = kind is int
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not _is_finite(value):
        raise ScenarioError(f"is {value!r}; it must be a {'whole ' if whole else ''}number", name)
    _check_range(key, value, name)
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # TOML has integers beyond all floats
        return False


def _check_range(key: Key, value: float, name: str) -> None:
    if not _is_finite(value):
        raise ScenarioError(f"is {value}; it must be a finite number", name)
    if key.minimum is not None and value < key.minimum:
        wanted = "not be negative" if key.minimum == 0 else f"be at least {key.minimum:g}"
        raise ScenarioError(f"is {value}; it must {wanted}", name)
    if key.above is not None and not value > key.above:
        raise ScenarioError(f"is {value}; it must be above {key.above:g}", name)
    most = MAX_NUMBER if key.maximum is None else key.maximum
    if value > most:
        raise ScenarioError(f"is {value}; it must be at most {most:g}", name)


def _read_choice(value: object, name: str, valid: Collection[str]) -> str:
    if not isinstance(value, str) or value not in valid:
        near = difflib.get_close_matches(str(value), valid, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"valid values: {', '.join(valid)}"
        raise ScenarioError(f"is {value!r}; {hint}", name)
    return value
