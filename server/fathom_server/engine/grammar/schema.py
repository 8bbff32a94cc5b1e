"""A caller's JSON schema, checked and rewritten so that the grammar library holds an answer to every word of it.

The library (llguidance) ignores keywords that it does not know, reads pointers literally, rounds large numbers, and
follows references as deep as they go. Here every keyword is looked at, in a fixed form handed on, or refused by name
and place.
"""

import difflib
import json
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
    UNSUPPORTED,
)
from fathom_server.engine.grammar.numbers import close_bounds
from fathom_server.engine.grammar.values import (
    check_value,
    escaped,
    read_count,
    read_listed,
    read_names,
    read_number,
    read_pattern,
    read_types,
    read_values,
    refuse,
    shown,
)
from fathom_server.errors import InvalidRequestError

MAX_SCHEMA_CHARACTERS: Final = 1 << 20
MAX_SUBSCHEMAS: Final = 20_000
MAX_NESTING: Final = 200
"""Most schemas inside one another, references followed; the library's recursion ends the process at some thousand."""

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
            refuse(path, f"more than {MAX_SUBSCHEMAS} schemas in one; make it smaller")
        if depth > MAX_NESTING:
            refuse(path, f"more than {MAX_NESTING} schemas inside one another, references followed; make it flatter")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            refuse(path, f"{shown(schema)} is no schema; it must be an object, true or false")
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
                refuse(path, f"the keyword {keyword!r} is not supported; {UNSUPPORTED[keyword]}")
            if keyword.startswith("x-"):
                continue
            near = difflib.get_close_matches(keyword, KEYWORDS, 1)
            refuse(path, f"unknown keyword {keyword!r}; " + (f"is it {near[0]!r}?" if near else "leave it out"))

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
        value, at = schema[keyword], f"{path}/{escaped(keyword)}"
        match keyword:
            case "type":
                result["type"] = read_types(value, at)
            case "enum":
                result["enum"] = read_values(value, at)
            case "const":
                check_value(value, at)
                result["const"] = value
            case "pattern":
                result["pattern"] = read_pattern(value, at)
            case "format":
                self._read_format(value, schema, result, at)
            case "required":
                result["required"] = read_names(value, at)
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
                result[keyword] = read_count(value, COUNTS[keyword], at)
            case _ if keyword in NUMBERS:
                read_number(keyword, schema, result, at)

    def _read_list(self, value: Any, at: str, depth: int) -> list[Schema]:
        return [self.read(one, f"{at}/{index}", depth + 1) for index, one in read_listed(value, at)]

    def _read_map(self, keyword: str, value: Any, at: str, depth: int) -> dict[str, Schema]:
        if not isinstance(value, dict):
            refuse(at, f"{shown(value)} must be an object of schemas")
        if keyword == "patternProperties":
            for pattern in value:
                read_pattern(pattern, at)
        return {name: self.read(one, f"{at}/{escaped(name)}", depth + 1) for name, one in value.items()}

    def _read_one_of(self, value: Any, result: dict[str, Any], at: str, depth: int) -> None:
        alternatives = [self._read_alternative(one, f"{at}/{index}", depth) for index, one in read_listed(value, at)]
        if not are_disjoint(alternatives, self.definitions):
            refuse(
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
            refuse(at, f"the format {shown(value)} is not supported; supported: {', '.join(FORMATS)}")
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
                refuse(at, "a list of items beside prefixItems; give one of them")
            result["prefixItems"] = self._read_list(value, at, depth)
        elif keyword == "items" or isinstance(schema.get("items"), list):
            result["items"] = self.read(value, at, depth + 1)
        else:
            refuse(
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
            refuse(at, f"{shown(reference)} must be a string")
        if reference != "#" and not reference.startswith("#/"):
            refuse(at, f"{reference!r} is not inside this document; only references of the form #/... are followed")
        target = self.document
        for part in unquote(reference).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isascii() and key.isdigit() and int(key) < len(target):
                target = target[int(key)]
            else:
                refuse(at, f"{reference!r} points at nothing")
        return target


def _check_properties(schema: dict[str, Any], path: str) -> None:
    """Refuse what the library would not hold: a key may come twice, so that only required ones can be counted."""
    required = schema.get("required", ())
    fewest = schema.get("minProperties", 0)
    if fewest > max(1, len(required)):
        refuse(
            f"{path}/minProperties",
            f"{fewest} is more than 1 and more than the {len(required)} properties under required; name them there",
        )
    optional = sum(name not in required for name in schema.get("properties", ()))
    if optional > MAX_OPTIONAL_PROPERTIES:
        refuse(
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
