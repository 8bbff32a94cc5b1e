"""JSON Schema's keywords: which an answer is held to, which say nothing about it, and which are refused, and why."""

from typing import Final

TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")

ANNOTATIONS: Final = frozenset(
    (
        *("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly"),
        *("discriminator", "$comment", "$schema", "$defs", "definitions"),
    )
)
"""Keywords that constrain nothing. ``discriminator`` is OpenAPI's hint beside a oneOf; ``$ref`` reads definitions."""

COUNTS: Final = {
    "minLength": 1_000_000,
    "maxLength": 1_000_000_000,
    "minItems": 10_000,
    "maxItems": 10_000,
    "minProperties": 10_000,
    "maxProperties": 10_000,
}
"""Keywords whose value is a count, and the most that each may be."""

NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")

UNSUPPORTED: Final = {
    "not": "say what is allowed instead",
    "if": "write the cases as anyOf",
    "then": "write the cases as anyOf",
    "else": "write the cases as anyOf",
    "dependencies": "write the cases as anyOf",
    "dependentRequired": "write the cases as anyOf",
    "dependentSchemas": "write the cases as anyOf",
    "propertyNames": "use patternProperties with additionalProperties false",
    "contains": "use prefixItems or items",
    "minContains": "use prefixItems or items",
    "maxContains": "use prefixItems or items",
    "uniqueItems": "leave it out, and drop repeated items from the answer",
    "unevaluatedItems": "use items",
    "unevaluatedProperties": "use additionalProperties",
    "contentEncoding": "use pattern",
    "contentMediaType": "leave it out",
    "contentSchema": "leave it out",
    "nullable": 'use "type": [..., "null"]',
    "$anchor": "refer by #/$defs/...",
    "$dynamicAnchor": "refer by #/$defs/...",
    "$dynamicRef": "use $ref",
    "$recursiveAnchor": "refer by #/$defs/...",
    "$recursiveRef": "use $ref",
    "$vocabulary": "leave it out",
    "x-guidance": "it belongs to the grammar library",
}
"""Keywords with a meaning that no answer is held to, and what to do instead."""

KEYWORDS: Final = frozenset(
    (
        *("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "pattern", "format", "required", "properties"),
        *("patternProperties", "additionalProperties", "items", "prefixItems", "additionalItems", *COUNTS, *NUMBERS),
    )
)

_YEAR: Final = "[12][0-9]{3}"
_LEAP_YEAR: Final = "(?:[12][0-9](?:0[48]|[2468][048]|[13579][26])|(?:1[26]|2[048])00)"
_DATE: Final = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"

FORMAT_PATTERNS: Final = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
}
"""Formats of RFC 3339 as patterns: days that exist, of the years 1000 to 2999, no leap seconds. The library's
own know no leap years."""

LIBRARY_FORMATS: Final = ("duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
FORMATS: Final = tuple(sorted((*FORMAT_PATTERNS, *LIBRARY_FORMATS)))
