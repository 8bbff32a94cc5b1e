"""A key of a bundle: its type, range and meaning, written once, in the annotation of a dataclass's field.

The reader checks values against it; the command's flags, the JSON schema and the manual are made from it.
"""

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from fathom_export.errors import SpecError
from fathom_server.engine.settings import EngineLimits

MAX_COUNT: Final = 1 << 31
"""Numbers stay below this: Triton's are 32 bits wide."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a key means, in words that follow its name, and the range of its numbers: at least or above a bound.

    ``table`` is the type whose keys a table may hold, where the field's own type is a mapping.
    """

    help: str
    minimum: int | None = None
    above: int | None = None
    table: type | None = None


@dataclass(frozen=True, slots=True)
class TypedKey:
    """A key with its name, its Python type, and its default, ``MISSING`` where it must be given.

    A type that may also be None is given without it: in a file, nothing is said by leaving the key out.
    """

    name: str
    kind: Any
    key: Key
    default: Any

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts that it may be, or none where any will do."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def is_free(self) -> bool:
        """Whether it is a table of whatever TOML can say, whose keys somebody else knows."""
        return get_origin(self.kind) is Mapping and get_args(self.kind)[1] is Any and self.key.table is None

    @property
    def subtable(self) -> type | None:
        """The dataclass whose keys its table may hold, if it is one."""
        if self.key.table is not None:
            return self.key.table
        return self.kind if isinstance(self.kind, type) and is_dataclass(self.kind) else None


_ENGINE_LIMITS: Final = {
    "max_batch": Key("sequences computed together", minimum=1),
    "max_queue": Key("requests that wait before others are refused", minimum=0),
    "max_context": Key("tokens of a prompt and its answer; by default the model's own, at most 2048", minimum=1),
    "prefill_chunk": Key("prompt tokens computed in one step, of all requests", minimum=1),
    "default_max_tokens": Key("tokens of an answer to a request that names no length", minimum=1),
    "timeout_s": Key("deadline in seconds of a request that brings none", above=0),
    "queue_timeout_s": Key("seconds that a request may wait for its turn, 0 for no limit of its own", minimum=0),
    "threads": Key("ONNX Runtime's threads, 0 for every core", minimum=0),
    "kv_cache_tokens": Key("tokens that the paged cache holds, 0 for `max_batch` times `max_context`", minimum=0),
    "kv_cache_dtype": Key("numbers that the paged cache keeps keys and values in"),
    "stream_responses_per_s": Key(
        "streamed responses a second of all requests together; tokens of an answer that wait travel together; 0 for no "
        "bound",
        minimum=0,
    ),
}


def keys_of(table: type) -> dict[str, TypedKey]:
    """The keys of a dataclass by name, in its order."""
    hints = get_type_hints(table, include_extras=True)
    keys = {}
    for field in fields(table):
        if not field.init or field.name in ("task", "engine"):
            continue
        hint = hints[field.name]
        if get_origin(hint) is Annotated:
            kind, key = get_args(hint)[:2]
        else:  # the engine's settings, which know nothing of bundles
            kind, key = hint, _ENGINE_LIMITS[field.name] if table is EngineLimits else Key("")
        default = field.default if field.default_factory is MISSING else field.default_factory()
        keys[field.name] = TypedKey(field.name, _without_none(kind), key, default)
    return keys


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType):
        return kind
    others = [part for part in get_args(kind) if part is not NoneType]
    return float if set(others) == {int, float} else others[0]


def read_table(table: type, raw: object, where: str, *, also: Collection[str] = ()) -> dict[str, Any]:
    """The values of a TOML table that a dataclass's fields take, checked; ``where`` begins the keys in messages.

    ``also`` are keys that are known and read elsewhere. Raises SpecError giving key, value and remedy.
    """
    keys = keys_of(table)
    if not isinstance(raw, Mapping):
        first = next(iter(keys.values()))
        raise SpecError(f"{where} is {raw!r}; it must be a table, such as {{ {first.name} = {first.default} }}")
    refuse_unknown(raw, (*also, *keys), where)
    values = {}
    for key in keys.values():
        if key.name in raw:
            values[key.name] = _read_value(key.kind, key.key, raw[key.name], path_of(where, key.name))
        elif key.default is MISSING:
            hint = f"valid values: {', '.join(key.choices)}" if key.choices else f'add {key.name} = "..."'
            raise SpecError(f"{path_of(where, key.name)} is missing; {hint}")
    return values


def check_ranges(values: object, where: str) -> None:
    """Raise SpecError for the first number of a dataclass that is out of its key's range."""
    for key in keys_of(type(values)).values():
        if not key.is_free:
            _check_range(key.key, getattr(values, key.name), path_of(where, key.name))


def read_choice(raw: Mapping[str, Any], key: str, where: str, valid: Collection[str]) -> str:
    """One of the valid texts; raises SpecError with what was meant, or all of them."""
    if key not in raw:
        raise SpecError(f"{path_of(where, key)} is missing; valid values: {', '.join(valid)}")
    return _read_choice(raw[key], path_of(where, key), valid)


def refuse_unknown(raw: Iterable[str], known: Collection[str], where: str) -> None:
    """Raise SpecError for the first key that is not known."""
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(known)}"
            raise SpecError(f"{path_of(where, key)} is not a known key; {hint}")


def path_of(where: str, key: str) -> str:
    """A key's path in a message."""
    return f"{where}.{key}" if where else key


def _read_value(kind: Any, key: Key, value: object, where: str) -> Any:
    if key.table is not None:
        return read_table(key.table, value, where)
    if is_dataclass(kind) and isinstance(kind, type):
        values = read_table(kind, value, where)
        try:
            return kind(**values)
        except SpecError as error:  # raised for values that do not go together; says the path from the table on
            raise SpecError(f"{where}.{error}") from error
    if get_origin(kind) is Literal:
        return _read_choice(value, where, get_args(kind))
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            example = 'texts, such as ["a", "b"]' if get_args(kind)[0] is str else "whole numbers, such as [4, 8]"
            raise SpecError(f"{where} is {value!r}; it must be a list of {example}")
        return tuple(
            _read_value(get_args(kind)[0], key, entry, f"{where}[{place}]") for place, entry in enumerate(value)
        )
    if get_origin(kind) is Mapping and get_args(kind)[1] is Any:
        return _read_free_table(value, where)
    if get_origin(kind) is not None and issubclass(get_origin(kind), Mapping):
        if not isinstance(value, Mapping) or not all(name.strip() for name in value):
            raise SpecError(f"{where} is {value!r}; it must be a table of whole numbers, such as {{ cores = 1 }}")
        return {name: _read_value(int, key, entry, f"{where}.{name}") for name, entry in value.items()}
    return _read_scalar(kind, key, value, where)


def _read_free_table(value: object, where: str) -> dict[str, Any]:
    """A table of texts, numbers, truths, lists and tables; dates, which JSON has not, are refused."""
    if not isinstance(value, Mapping):
        raise SpecError(f"{where} is {value!r}; it must be a table")
    return {name: _read_free(entry, path_of(where, name)) for name, entry in value.items()}


def _read_free(value: object, where: str) -> Any:
    if isinstance(value, Mapping):
        return _read_free_table(value, where)
    if isinstance(value, list):
        return [_read_free(entry, f"{where}[{place}]") for place, entry in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{where} is {value!r}; it must be a number")
    if isinstance(value, str | int | float):
        return value
    raise SpecError(f"{where} is {value!r}; it must be a text, a number, true or false, a list or a table")


def _read_scalar(kind: Any, key: Key, value: object, where: str) -> Any:
    if kind is bool:
        if not isinstance(value, bool):
            raise SpecError(f"{where} is {value!r}; it must be true or false")
        return value
    if kind is str:
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise SpecError(f"{where} is {value!r}; it must be a text that is not empty")
        return value
    whole = kind is int
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not _is_finite(value):
        raise SpecError(f"{where} is {value!r}; it must be a {'whole ' if whole else ''}number")
    _check_range(key, value, where)
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # TOML has integers beyond all floats
        return False


def _check_range(key: Key, value: object, where: str) -> None:
    for number in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if key.minimum is not None and number < key.minimum:
            wanted = "not be negative" if key.minimum == 0 else f"be at least {key.minimum}"
            raise SpecError(f"{where} is {number}; it must {wanted}")
        if key.above is not None and not number > key.above:
            raise SpecError(f"{where} is {number}; it must be above {key.above}")
        if number >= MAX_COUNT:
            raise SpecError(f"{where} is {number}; it must be below {MAX_COUNT}")


def _read_choice(value: object, where: str, valid: Collection[str]) -> str:
    if not isinstance(value, str) or value not in valid:
        near = difflib.get_close_matches(str(value), valid, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"valid values: {', '.join(valid)}"
        raise SpecError(f"{where} is {value!r}; {hint}")
    return value
