"""A caller's JSON schema, checked and rewritten so that the grammar library holds an answer to every word of it.

The library (llguidance) ignores keywords that it does not know, reads pointers literally, rounds large numbers, and
follows references as deep as they go. Here every keyword is looked at, in a fixed form handed on, or refused by name
and place.
"""

import difflib
import json
import math
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn
from urllib.parse import unquote

from fathom_server.engine.grammar.disjoint import are_disjoint
from fathom_server.engine.grammar.finite import without_endless_parts
from fathom_server.engine.grammar.keywords import (
    ANNOTATIONS,
    COUNTS,
    FORMAT_PATTERNS,
    FORMATS,
    KEYWORDS,
    NUMBERS,
    TYPES,
    UNSUPPORTED,
)
from fathom_server.engine.grammar.numbers import EXACT_DIGITS, MAX_EXACT_INTEGER, close_bounds, is_exact
from fathom_server.errors import InvalidRequestError

MAX_SCHEMA_CHARACTERS: Final = 1 << 20
MAX_SUBSCHEMAS: Final = 20_000
MAX_NESTING: Final = 200
"""Most schemas inside one another, references followed; the library's recursion ends the process at some thousand."""

MAX_ENUM_VALUES: Final = 20_000
MAX_PATTERN_CHARACTERS: Final = 4096
MAX_OPTIONAL_PROPERTIES: Final = 256
Schema = dict[str, Any] | bool


def checked_schema(text: str) -> Schema:
    """A schema in the library's terms: only keywords that it enforces, every reference of the form ``#/$defs/name``.

    Raises InvalidRequestError, naming the keyword and where it stands, for what is no JSON schema, what is not
    supported, and what no finite text satisfies.
    """
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise InvalidRequestError(
            f"structured_outputs.json has {len(text)} characters; at most {MAX_SCHEMA_CHARACTERS} are taken"
        )
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"structured_outputs.json is not JSON: {error}") from error
    reader = _Reader(document)
    root = reader.read(document, "#", 0)
    root, definitions = without_endless_parts(root, reader.definitions)
    if root is False:
        raise InvalidRequestError(
            "structured_outputs.json cannot be satisfied: it is false, or requires itself inside itself without end"
        )
    if isinstance(root, dict) and definitions:
        return {**root, "$defs": definitions}
    return root


@dataclass(slots=True)
class _Reader:
    """Reads one document; ``definitions`` holds what references point at, by a name for each."""

    document: Any
    definitions: dict[str, Schema] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    _subschemas: int = 0

    def read(self, schema: Any, path: str, depth: int) -> Schema:
        """A schema at a place of the document, ``depth`` schemas deep."""
        self._subschemas += 1
        if self._subschemas > MAX_SUBSCHEMAS:
            _refuse(path, f"more than {MAX_SUBSCHEMAS} schemas in one; make it smaller")
        if depth > MAX_NESTING:
            _refuse(path, f"more than {MAX_NESTING} schemas inside one another, references followed; make it flatter")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            _refuse(path, f"{_shown(schema)} is no schema; it must be an object, true or false")
        self._check_keywords(schema, path)
        read = self._reordered(schema)
        result: dict[str, Any] = {}
        for keyword in read:
            self._read_keyword(keyword, schema, result, path, depth)
        _check_properties(result, path)
        close_bounds(result)
        return result

    def _check_keywords(self, schema: dict[str, Any], path: str) -> None:
        for keyword in schema:
            if keyword in KEYWORDS or keyword in ANNOTATIONS:
                continue
            if keyword == "uniqueItems" and (schema[keyword] is False or schema.get("maxItems") in (0, 1)):
                continue
            if keyword in ("$id", "id") and path == "#":
                continue
            if keyword in UNSUPPORTED:
                _refuse(path, f"the keyword {keyword!r} is not supported; {UNSUPPORTED[keyword]}")
            if keyword.startswith("x-"):
                continue
            near = difflib.get_close_matches(keyword, KEYWORDS, 1)
            _refuse(path, f"unknown keyword {keyword!r}; " + (f"is it {near[0]!r}?" if near else "leave it out"))

    @staticmethod
    def _reordered(schema: dict[str, Any]) -> list[str]:
        """Keywords with those about the value itself together: the library reads each run of them on its own."""
        combining = ("const", "enum", "allOf", "anyOf", "oneOf", "$ref")
        own = [keyword for keyword in schema if keyword in KEYWORDS and keyword not in combining]
        own.sort(key=lambda keyword: keyword != "type")
        anchor = next((keyword for keyword in schema if keyword in ("properties", "required", "prefixItems")), None)
        order: list[str] = []
        for keyword in schema:
            if keyword in combining:
                order.append(keyword)
            elif keyword == anchor:
                order.extend(own)
        return order if anchor is not None else own + order

    def _read_keyword(
        self, keyword: str, schema: dict[str, Any], result: dict[str, Any], path: str, depth: int
    ) -> None:
        value, at = schema[keyword], f"{path}/{_escaped(keyword)}"
        match keyword:
            case "type":
                result["type"] = _types(value, at)
            case "enum":
                result["enum"] = _values(value, at)
            case "const":
                _check_value(value, at)
                result["const"] = value
            case "pattern":
                result["pattern"] = _pattern(value, at)
            case "format":
                self._read_format(value, schema, result, at)
            case "required":
                result["required"] = _names(value, at)
            case "properties" | "patternProperties":
                result[keyword] = self._read_map(keyword, value, at, depth)
            case "additionalProperties":
                result[keyword] = self.read(value, at, depth + 1)
            case "anyOf" | "allOf":
                result.setdefault(keyword, []).extend(self._read_list(value, at, depth))
            case "oneOf":
                self._read_one_of(value, result, at, depth)
            case "$ref":
                result["$ref"] = self._read_reference(value, at, depth)
            case "items" | "prefixItems" | "additionalItems":
                self._read_items(keyword, schema, result, at, depth)
            case _ if keyword in COUNTS:
                result[keyword] = _count(value, COUNTS[keyword], at)
            case _ if keyword in NUMBERS:
                _read_number(keyword, schema, result, at)

    def _read_list(self, value: Any, at: str, depth: int) -> list[Schema]:
        return [self.read(one, f"{at}/{index}", depth + 1) for index, one in _listed(value, at)]

    def _read_map(self, keyword: str, value: Any, at: str, depth: int) -> dict[str, Schema]:
        if not isinstance(value, dict):
            _refuse(at, f"{_shown(value)} must be an object of schemas")
        if keyword == "patternProperties":
            for pattern in value:
                _pattern(pattern, at)
        return {name: self.read(one, f"{at}/{_escaped(name)}", depth + 1) for name, one in value.items()}

    def _read_one_of(self, value: Any, result: dict[str, Any], at: str, depth: int) -> None:
        alternatives = [self._read_alternative(one, f"{at}/{index}", depth) for index, one in _listed(value, at)]
        if not are_disjoint(alternatives, self.definitions):
            _refuse(
                at, "alternatives of a oneOf must not overlap: give each a required property of its own, or use anyOf"
            )
        result.setdefault("allOf", []).append({"anyOf": alternatives})

    def _read_alternative(self, schema: Any, at: str, depth: int) -> Schema:
        """An alternative of oneOf; what it refers to is written in, so that overlaps are seen."""
        followed = 0
        while isinstance(schema, dict) and set(schema) - ANNOTATIONS == {"$ref"} and followed < MAX_NESTING:
            schema = self._resolve(schema["$ref"], f"{at}/$ref")
            followed += 1
        return self.read(schema, at, depth + 1)

    def _read_format(self, value: Any, schema: dict[str, Any], result: dict[str, Any], at: str) -> None:
        if value not in FORMATS:
            _refuse(at, f"the format {_shown(value)} is not supported; supported: {', '.join(FORMATS)}")
        pattern = FORMAT_PATTERNS.get(value)
        if pattern is None:
            result["format"] = value
        elif "pattern" in schema:
            also = {"type": result["type"], "pattern": pattern} if "type" in result else {"pattern": pattern}
            result.setdefault("allOf", []).append(also)
        else:
            result["pattern"] = pattern

    def _read_items(self, keyword: str, schema: dict[str, Any], result: dict[str, Any], at: str, depth: int) -> None:
        """``items`` as a list and ``additionalItems`` (until 2019-09) are today's ``prefixItems`` and ``items``."""
        value = schema[keyword]
        if keyword == "prefixItems" or (keyword == "items" and isinstance(value, list)):
            if keyword == "items" and "prefixItems" in schema:
                _refuse(at, "a list of items beside prefixItems; give one of them")
            result["prefixItems"] = self._read_list(value, at, depth)
        elif keyword == "items" or isinstance(schema.get("items"), list):
            result["items"] = self.read(value, at, depth + 1)
        else:
            _refuse(
                at, "additionalItems means nothing unless items is a list; leave it out, or use prefixItems and items"
            )

    def _read_reference(self, reference: Any, at: str, depth: int) -> str:
        target = self._resolve(reference, at)
        pointer = unquote(reference)
        name = self._names.get(pointer)
        if name is None:
            name = self._names[pointer] = f"d{len(self._names)}"
            self.definitions[name] = True  # its place in the order; references inside it find its name
            self.definitions[name] = self.read(target, reference, depth + 1)
        return f"#/$defs/{name}"

    def _resolve(self, reference: Any, at: str) -> Any:
        if not isinstance(reference, str):
            _refuse(at, f"{_shown(reference)} must be a string")
        if reference != "#" and not reference.startswith("#/"):
            _refuse(at, f"{reference!r} is not inside this document; only references of the form #/... are followed")
        target = self.document
        for part in unquote(reference).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isascii() and key.isdigit() and int(key) < len(target):
                target = target[int(key)]
            else:
                _refuse(at, f"{reference!r} points at nothing")
        return target


def _types(value: Any, at: str) -> str | list[str]:
    types = value if isinstance(value, list) else [value]
    if not types:
        _refuse(at, "no type is given; leave the keyword out to allow any")
    for one in types:
        if one not in TYPES:
            _refuse(at, f"{_shown(one)} is no type; valid: {', '.join(TYPES)}")
    kept = [one for one in dict.fromkeys(types) if not (one == "integer" and "number" in types)]
    return kept if isinstance(value, list) else str(value)


def _values(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        _refuse(at, f"{_shown(value)} must be a list of at least one value")
    if len(value) > MAX_ENUM_VALUES:
        _refuse(at, f"{len(value)} values; at most {MAX_ENUM_VALUES} are taken")
    for one in value:
        _check_value(one, at)
    return value


def _check_value(value: Any, at: str) -> None:
    """Refuse numbers that the library would round."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        _check_number(value, at)
        if not is_exact(value):
            _refuse(at, f"{value} has more than {EXACT_DIGITS} digits or is beyond 2^53; use a string")
    elif isinstance(value, list):
        for one in value:
            _check_value(one, at)
    elif isinstance(value, dict):
        for one in value.values():
            _check_value(one, at)


def _check_number(value: Any, at: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _refuse(at, f"{_shown(value)} must be a number")


def _read_number(keyword: str, schema: dict[str, Any], result: dict[str, Any], at: str) -> None:
    value = schema[keyword]
    bound = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}.get(keyword)
    if isinstance(value, bool) and bound is not None:  # draft 4: a flag beside minimum and maximum
        if value and bound not in schema:
            _refuse(at, f"true means nothing without {bound}")
        if value:
            _check_number(schema[bound], at)
            result[keyword] = schema[bound]
        return
    _check_number(value, at)
    if abs(value) > MAX_EXACT_INTEGER:
        _refuse(at, f"{value} is beyond 2^53, where numbers are no longer exact")
    if keyword == "multipleOf" and value <= 0:
        _refuse(at, f"{value} must be above 0")
    if keyword == "multipleOf" and not is_exact(value):
        _refuse(at, f"{value} has more than {EXACT_DIGITS} digits")
    result[keyword] = value


def _count(value: Any, most: int, at: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        _refuse(at, f"{_shown(value)} must be a whole number of at least 0")
    if value > most:
        _refuse(at, f"{value} is too large; at most {most}")
    return value


def _pattern(value: Any, at: str) -> str:
    if not isinstance(value, str):
        _refuse(at, f"{_shown(value)} must be a regular expression, as a string")
    if len(value) > MAX_PATTERN_CHARACTERS:
        _refuse(at, f"{len(value)} characters; a regular expression may have {MAX_PATTERN_CHARACTERS}")
    return value


def _names(value: Any, at: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        _refuse(at, f"{_shown(value)} must be a list of strings")
    return list(dict.fromkeys(value))


def _listed(value: Any, at: str) -> list[tuple[int, Any]]:
    if not isinstance(value, list) or not value:
        _refuse(at, f"{_shown(value)} must be a list of at least one schema")
    return list(enumerate(value))


def _check_properties(schema: dict[str, Any], path: str) -> None:
    """Refuse what the library would not hold: a key may come twice, so that only required ones can be counted."""
    required = schema.get("required", ())
    fewest = schema.get("minProperties", 0)
    if fewest > max(1, len(required)):
        _refuse(
            f"{path}/minProperties",
            f"{fewest} is more than 1 and more than the {len(required)} properties under required; name them there",
        )
    optional = sum(name not in required for name in schema.get("properties", ()))
    if optional > MAX_OPTIONAL_PROPERTIES:
        _refuse(
            f"{path}/properties",
            f"{optional} properties are optional; at most {MAX_OPTIONAL_PROPERTIES} may be: require more of them",
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return whole


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _refuse(path: str, why: str) -> NoReturn:
    raise InvalidRequestError(f"structured_outputs.json, at {path}: {why}")
