"""What is refused: by name and place where it can be named, in bounded time and memory where it would explode."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from tests.server.engine import grammar_tokenizers
from tests.server.engine.grammar_walk import Model

from fathom_server.engine.grammar.keywords import FORMATS, UNSUPPORTED
from fathom_server.engine.structured_output import StructuredOutput
from fathom_server.errors import InvalidRequestError

VALUES_OF_UNSUPPORTED: dict[str, Any] = {"uniqueItems": True, "nullable": True, "minContains": 1, "maxContains": 1}

MALFORMED: dict[str, tuple[Any, str]] = {
    "misspelt": ({"type": "string", "maxlength": 3}, "at #: unknown keyword 'maxlength'; is it 'maxLength'"),
    "unknown": ({"colour": 1}, "unknown keyword 'colour'; leave it out"),
    "nested": ({"properties": {"a/b": {"items": {"not": {}}}}}, "at #/properties/a~1b/items: the keyword 'not'"),
    "type": ({"type": "text"}, 'at #/type: "text" is no type; valid: null, boolean'),
    "no types": ({"type": []}, "no type is given"),
    "list as schema": ({"items": 3}, "at #/items: 3 is no schema"),
    "required": ({"required": "a"}, 'at #/required: "a" must be a list of strings'),
    "count": ({"minLength": -1}, "at #/minLength: -1 must be a whole number"),
    "fraction": ({"maxItems": 1.5}, "at #/maxItems: 1.5 must be a whole number"),
    "bound": ({"minimum": "3"}, 'at #/minimum: "3" must be a number'),
    "multiple": ({"multipleOf": 0}, "at #/multipleOf: 0 must be above 0"),
    "enum": ({"enum": []}, "at #/enum: .. must be a list of at least one value"),
    "anyOf": ({"anyOf": []}, "at #/anyOf: .. must be a list of at least one schema"),
    "properties": ({"properties": []}, "at #/properties: .. must be an object of schemas"),
    "pattern": ({"type": "string", "pattern": 3}, "at #/pattern: 3 must be a regular expression"),
    "broken pattern": ({"type": "string", "pattern": "(a"}, "unclosed group"),
    "look-ahead": ({"type": "string", "pattern": "(?=a)"}, "look-around.* is not supported"),
    "format": ({"format": "iban"}, 'at #/format: the format "iban" is not supported; supported: date, date-time'),
    "library's format": ({"format": "unknown"}, 'the format "unknown" is not supported'),
    "other document": ({"$ref": "https://example.com/s.json"}, "at #/.ref: .* is not inside this document"),
    "relative document": ({"$ref": "other.json#/a"}, "is not inside this document"),
    "anchor": ({"$ref": "#name"}, "is not inside this document"),
    "nothing there": ({"$ref": "#/$defs/x"}, "points at nothing"),
    "nested id": ({"properties": {"a": {"$id": "b"}}}, "at #/properties/a: unknown keyword '.id'"),
    "overlapping oneOf": ({"oneOf": [{"minimum": 3}, {"maximum": 5}]}, "at #/oneOf: alternatives .* must not overlap"),
    "two lists of items": ({"items": [{}], "prefixItems": [{}]}, "at #/items: a list of items beside prefixItems"),
    "additionalItems": ({"items": {}, "additionalItems": {}}, "additionalItems means nothing unless items is a list"),
    "exclusive flag": ({"exclusiveMinimum": True}, "true means nothing without minimum"),
    "large integer": ({"const": 2**53 + 1}, "at #/const: 9007199254740993 has more than 15 digits or is beyond 2.53"),
    "long fraction": ({"enum": [0.12345678901234567]}, "at #/enum: .* has more than 15 digits"),
    "large bound": ({"maximum": 1e300}, "at #/maximum: 1e.300 is beyond 2.53"),
    "keys that may repeat": ({"minProperties": 2}, "at #/minProperties: 2 is more than 1"),
    "overlapping patterns": ({"patternProperties": {"^a": {}, "b$": {}}}, "not disjoint"),
    "library's options": ({"x-guidance": {"lenient": True}}, "'x-guidance' is not supported"),
}

UNSATISFIABLE: dict[str, Any] = {
    "false": False,
    "length": {"type": "string", "minLength": 5, "maxLength": 3},
    "items": {"type": "array", "minItems": 3, "maxItems": 1},
    "numbers": {"type": "number", "minimum": 5, "maximum": 3},
    "touching bounds": {"type": "number", "exclusiveMinimum": 3, "exclusiveMaximum": 3},
    "no integer between": {"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 5},
    "no multiple": {"type": "integer", "minimum": 1, "maximum": 4, "multipleOf": 5},
    "enum of another type": {"type": "string", "enum": [1, 2]},
    "const outside": {"type": "integer", "minimum": 3, "const": 2},
    "types": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "pattern and length": {"type": "string", "pattern": "^a$", "minLength": 3},
    "two patterns": {"type": "string", "allOf": [{"pattern": "^a+$"}, {"pattern": "^b+$"}]},
    "deep": {"type": "object", "properties": {"x": {"enum": [1], "type": "string"}}, "required": ["x"]},
    "required and forbidden": {"type": "object", "required": ["a"], "additionalProperties": False},
    "required and false": {"type": "object", "properties": {"a": False}, "required": ["a"]},
    "properties": {"type": "object", "required": ["a", "b"], "maxProperties": 1},
    "item": {"type": "array", "items": False, "minItems": 1},
    "itself": {"$ref": "#"},
    "itself inside": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "one another": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "each alternative": {"anyOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": 1}]},
}  # fmt: skip

BAD_GRAMMARS: dict[str, tuple[str, str]] = {
    "special token": ("start: <|im_start|> /a/", "names a token"),
    "token by number": ("start: <[5]>", "names a token"),
    "schema inside": ('start: %json {"type": "string"}', "%json is not supported"),
    "options": ('%llguidance {"no_forcing": true}\nstart: "a"', "%llguidance is not supported"),
    "import": ("start: X\n%import python.X", "%import is not supported"),
    "attributes": ("start: a\na[max_tokens=3]: /.*/", "the rule a has attributes .max_tokens=3."),
    "stop": ('start: a\na[stop="x"]: /.*/', "the rule a has attributes"),
    "parameters": ('start: a::1\na::_: "x"', "parameters|attributes|unexpected"),
    "other grammar": ("start: @other", "names another grammar"),
    "undefined": ("start: x", 'unknown name: "x"'),
    "no start": ('begin: "a"', "start"),
    "syntax": ("start: (", "grammar"),
    "endless": ("start: start", "cannot be satisfied"),
    "broken GBNF": ("root ::= (", "GBNF|grammar"),
}

CHAIN = {"$ref": "#/$defs/d0", "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(3000)} | {"d3000": {}}}
DEEP: Any = {"type": "object"}
for _ in range(300):
    DEEP = {"type": "object", "properties": {"a": DEEP}}

BOMBS: dict[str, tuple[str, Any]] = {
    "repetition": ("json", {"type": "string", "pattern": "^(a{1,10000}){1,10000}$"}),
    "repetition three deep": ("json", {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"}),
    "starred star": ("json", {"type": "string", "pattern": "(a*)*b"}),
    "exponential automaton": ("json", {"type": "string", "pattern": "^(a|b)*a(a|b){40}$"}),
    "exponential search": ("regex", "(a|b)*a(a|b){40}"),
    "optional then required": ("regex", "a?" * 5000 + "a" * 5000),
    "unicode repetition": ("regex", r"(\p{L}{1,100}\p{N}{1,100}){1,100}"),
    "a million values": ("json", {"enum": [f"value {index}" for index in range(1_000_000)]}),
    "many values": ("json", {"enum": [f"value {index}" for index in range(20_000)]}),
    "a long string": ("json", {"type": "string", "minLength": 1_000_000}),
    "a long array": ("json", {"type": "array", "items": {"type": "integer"}, "minItems": 10_000}),
    "too long an array": ("json", {"type": "array", "maxItems": 10**9}),
    "long arrays in arrays": ("json", {"type": "array", "maxItems": 9999, "items": {"$ref": "#"}}),
    "many optional properties": ("json", {"properties": {f"p{index}": {} for index in range(5000)}}),
    "most optional properties": ("json", {"type": "object", "properties": {f"p{index}": {} for index in range(256)}}),
    "a chain of references": ("json", CHAIN),
    "deep nesting": ("json", DEEP),
    "products of alternatives": (
        "json",
        {"allOf": [{"anyOf": [{"properties": {f"p{i} {j}": {}}} for j in range(4)]} for i in range(12)]},
    ),
    "intersected patterns": ("json", {"allOf": [{"type": "string", "pattern": f"{c}.*{c}"} for c in "abcdefghijkl"]}),
    "a large multiple": ("json", {"type": "integer", "multipleOf": 999_999_937}),
    "a chain of rules": ("grammar", "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(5000)) + 'r5000: "a"'),
    "deep brackets": ("grammar", "start: " + "(" * 3000 + '"a"' + ")" * 3000),
    "an ambiguous grammar": ("grammar", 'start: e\ne: e e | "a" | e e e'),
    "repeated rules": ("grammar", 'start: e{1,1000}\ne: f{1,1000}\nf: g{1,1000}\ng: "a" | "b" "c"'),
    "deep brackets of a pattern": ("regex", "(" * 5000 + "a" + ")" * 5000),
    "many choices": ("choice", [f"choice {index}" for index in range(10_001)]),
    "deep JSON": ("json", "[" * 100_000),
}  # fmt: skip

CPU_S = 30
MEMORY_BYTES = 200 << 20
STEPS = 60

BLOW = """
import json, random, resource, sys
import numpy as np
from tests.server.engine import grammar_tokenizers
from tests.server.engine.grammar_walk import allowed
from fathom_server.engine.structured_output import StructuredOutput
from fathom_server.errors import InvalidRequestError
steps, seconds = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
model = grammar_tokenizers.byte_level()
model.compiler.compile(StructuredOutput("json_object"))
kind, value = json.load(sys.stdin)

def kilobytes(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

before = kilobytes("VmRSS")
verdict = "compiled"
try:
    matcher = model.compiler.compile(StructuredOutput(kind, value)).matcher()
    row = np.zeros((1, model.words), dtype=np.int32)
    chosen = random.Random(1)
    for _ in range(steps):
        matcher.masks((), row)
        ids = [token for token in allowed(row[0]).tolist() if token not in model.eos_token_ids]
        if matcher.error is not None:
            verdict = f"stopped: {matcher.error}"
        if not ids:
            break
        matcher.advance(chosen.choice(ids))
except InvalidRequestError as error:
    verdict = f"refused: {error}"
grown = (kilobytes("VmHWM") - before) * 1024
print(json.dumps([verdict, grown]))
"""


@pytest.fixture(scope="module")
def model() -> Model:
    return grammar_tokenizers.byte_level()


def _refuse(model: Model, kind: str, value: str, match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match) as caught:
        model.compiler.compile(StructuredOutput(kind, value))  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"structured_outputs.{kind}")
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize("keyword", UNSUPPORTED)
def test_unsupported_keywords_are_refused_by_name(model: Model, keyword: str) -> None:
    """No keyword with a meaning is ignored: it is named, with its place and what to do instead."""
    schema = {"type": "object", "properties": {"a": {keyword: VALUES_OF_UNSUPPORTED.get(keyword, {})}}}
    _refuse(model, "json", json.dumps(schema), rf"at #/properties/a: the keyword '{keyword.replace('$', '.')}' is not")


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_schemas_are_refused_with_their_place(model: Model, name: str) -> None:
    """What is wrong with a schema is said with the keyword, its value and where it stands."""
    schema, match = MALFORMED[name]
    _refuse(model, "json", json.dumps(schema), match)


@pytest.mark.parametrize("name", UNSATISFIABLE)
def test_schemas_that_nothing_satisfies_are_refused(model: Model, name: str) -> None:
    """A schema without any finite value is refused before the first token."""
    _refuse(model, "json", json.dumps(UNSATISFIABLE[name]), "satisf|Unsatisf")


@pytest.mark.parametrize("name", BAD_GRAMMARS)
def test_grammars_that_cannot_be_held_are_refused(model: Model, name: str) -> None:
    """Special tokens, the library's own additions, unknown names and endless rules are refused."""
    grammar, match = BAD_GRAMMARS[name]
    _refuse(model, "grammar", grammar, match)


@pytest.mark.parametrize("pattern", ["(a", r"(a)\1", "(?=a)b", "a{3,1}", "[z-a]", "*", "a{99999999999}"])
def test_broken_regular_expressions_are_refused(model: Model, pattern: str) -> None:
    """A regular expression that is none, or needs more than an automaton, is refused with its fault."""
    _refuse(model, "regex", pattern, "^structured_outputs.regex: .")


@pytest.mark.parametrize("value", ['{"type": "string",}', '{"a": NaN}', '{"type": "null", "type": "string"}'])
def test_what_is_no_json_is_refused(value: str) -> None:
    """Broken JSON, constants that JSON has not and keys that stand twice are refused."""
    model = grammar_tokenizers.example("large")
    with pytest.raises(InvalidRequestError, match="is not JSON"):
        model.compiler.compile(StructuredOutput("json", value))


def test_every_format_is_known_to_the_grammar(model: Model) -> None:
    """Each format that is said to be supported compiles."""
    for name in FORMATS:
        model.compiler.compile(StructuredOutput("json", json.dumps({"type": "string", "format": name})))


def test_a_refusal_harms_nobody(model: Model) -> None:
    """After a refusal, and after a matcher that gave up, the compiler and other matchers go on."""
    good = model.matcher("choice", '["yes"]')
    failing = model.matcher("grammar", BOMBS["repeated rules"][1])
    row = np.zeros((1, model.words), dtype=np.int32)
    a = model.tokenizer.tokenizer.token_to_id("a")
    steps = 0
    while failing.error is None and steps < 2000:
        failing.masks((), row)
        if failing.error is None:
            failing.advance(a)
        steps += 1
    assert isinstance(failing.error, InvalidRequestError)
    assert failing.masks([a], np.zeros((2, model.words), dtype=np.int32)) == 1
    assert failing.forced() == []
    assert not failing.can_end
    assert not failing.is_complete
    assert good.masks((), row) == 1
    assert row.any()


@pytest.mark.parametrize("name", BOMBS)
def test_exploding_structures_stay_small(name: str) -> None:
    """In a process of its own: refused, or served a step at a time, in bounded processor time and memory."""
    kind, value = BOMBS[name]
    text = value if isinstance(value, str) else json.dumps(value)
    done = subprocess.run(
        [sys.executable, "-c", BLOW, str(STEPS), str(CPU_S)],
        input=json.dumps([kind, text]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    verdict, grown = json.loads(done.stdout)
    print(f"{verdict} (+{grown >> 20} MiB)")
    assert grown < MEMORY_BYTES, (verdict, grown)
    assert verdict.startswith(("compiled", "refused: structured_outputs", "stopped: structured_outputs")), verdict
