"""Which parts of a schema a finite value satisfies; the rest is cut away, so that no answer loses itself in it."""

from typing import Any

Schema = dict[str, Any] | bool


def without_endless_parts(root: Schema, definitions: dict[str, Schema]) -> tuple[Schema, dict[str, Schema]]:
    """The schema with ``false`` wherever a value would have to hold itself inside itself without end.

    ``definitions`` is what ``#/$defs/name`` refers to. The least fixed point over the definitions (as for the
    productive symbols of a context-free grammar: Hopcroft and Ullman, 1979, section 4.4).
    """
    finite = dict.fromkeys(definitions, False)
    changed = True
    while changed:
        changed = False
        for name, schema in definitions.items():
            if not finite[name] and _is_finite(schema, finite):
                finite[name] = changed = True
    return _cut(root, finite), {name: _cut(schema, finite) for name, schema in definitions.items() if finite[name]}


def _is_finite(schema: Schema, finite: dict[str, bool]) -> bool:
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and not finite[_target(schema["$ref"])]:
        return False
    if not all(_is_finite(part, finite) for part in schema.get("allOf", ())):
        return False
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema and not any(_is_finite(part, finite) for part in schema[keyword]):
            return False
    types = schema.get("type", ("null", "array", "object"))
    types = (types,) if isinstance(types, str) else types
    return any(_has_finite_value(one, schema, finite) for one in types)


def _has_finite_value(kind: str, schema: dict[str, Any], finite: dict[str, bool]) -> bool:
    if kind == "object":
        named, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        patterned = bool(schema.get("patternProperties"))
        return all(
            _is_finite(named.get(name, True if patterned else others), finite) for name in schema.get("required", ())
        )
    if kind == "array":
        first, fewest = schema.get("prefixItems", ()), schema.get("minItems", 0)
        if not all(_is_finite(item, finite) for item in first[:fewest]):
            return False
        return fewest <= len(first) or _is_finite(schema.get("items", True), finite)
    return True


def _cut(schema: Schema, finite: dict[str, bool]) -> Schema:
    if isinstance(schema, bool):
        return schema
    if not _is_finite(schema, finite):
        return False
    cut: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in ("properties", "patternProperties"):
            cut[keyword] = {name: _cut(part, finite) for name, part in value.items()}
        elif keyword in ("anyOf", "oneOf"):
            cut[keyword] = [kept for kept in (_cut(part, finite) for part in value) if kept is not False]
        elif keyword in ("allOf", "prefixItems"):
            cut[keyword] = [_cut(part, finite) for part in value]
        elif keyword in ("items", "additionalProperties"):
            cut[keyword] = _cut(value, finite)
        else:
            cut[keyword] = value
    return cut


def _target(reference: str) -> str:
    return reference.removeprefix("#/$defs/")
