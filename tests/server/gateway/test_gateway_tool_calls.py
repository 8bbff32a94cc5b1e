"""Calls of tools are found in what models write, however the text is cut into pieces."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from fathom_server.gateway.tools.call_list import CallListReader
from fathom_server.gateway.tools.events import CallArguments, CallBegin, Content, ToolCallReader
from fathom_server.gateway.tools.forced import ArgumentsReader, calls_schema
from fathom_server.gateway.tools.hermes import HermesReader
from fathom_server.gateway.tools.llama3 import Llama3Reader
from fathom_server.gateway.tools.mistral import MistralReader
from fathom_server.gateway.tools.pythonic import PythonicReader
from fathom_server.gateway.tools.qwen3_coder import Qwen3CoderReader

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"$ref": "#/$defs/count"},
        "dry": {"type": "boolean"},
        "places": {"type": "array"},
        "more": {"type": "object"},
        "wind": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "note": {"type": ["string", "null"]},
        "unit": {"enum": ["C", "F", 1]},
    },
    "$defs": {"count": {"type": "integer"}},
}
FUNCTIONS = {"get_weather": WEATHER, "add": None}
NAMES = frozenset(FUNCTIONS)
READERS: dict[str, Callable[[], ToolCallReader]] = {
    "hermes": lambda: HermesReader(NAMES),
    "llama3": lambda: Llama3Reader(NAMES),
    "mistral": lambda: MistralReader(NAMES),
    "pythonic": lambda: PythonicReader(FUNCTIONS),
    "qwen3_coder": lambda: Qwen3CoderReader(FUNCTIONS),
    "list": lambda: CallListReader(NAMES),
    "arguments": lambda: ArgumentsReader("add"),
}


@dataclass
class Found:
    """An answer's text, and its calls as (name, arguments)."""

    content: str = ""
    calls: list[list[str]] = field(default_factory=list)


def read(reader: ToolCallReader, pieces: Sequence[str]) -> Found:
    found, ids = Found(), set()
    for event in [event for piece in pieces for event in reader.push(piece)] + reader.end():
        match event:
            case Content(text):
                assert text
                found.content += text
            case CallBegin(index, call_id, name):
                assert index == len(found.calls)
                assert len(call_id) == 9
                assert call_id.isalnum()
                ids.add(call_id)
                found.calls.append([name, ""])
            case CallArguments(index, text):
                assert text
                assert index == len(found.calls) - 1
                found.calls[index][1] += text
    assert len(ids) == len(found.calls)
    return found


QWEN3_CALL = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nŁódź <b>\n\n</parameter>\n<parameter=days>\n3\n"
    "</parameter>\n</function>\n</tool_call>"
)
HERMES_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Łódź}\\"<tool_call>"}}\n</tool_call>'
ANSWERS = [
    ("hermes", "Just text, no call.", "Just text, no call.", []),
    ("hermes", "", "", []),
    ("hermes", HERMES_CALL, "", [["get_weather", '{"city": "Łódź}\\"<tool_call>"}']]),
    (
        "hermes",
        f'I look.\n\n{HERMES_CALL}\n<tool_call>{{"arguments": {{"a": [1, {{"b": 2}}]}}, "name": "add"}}</tool_call>\n',
        "I look.",
        [["get_weather", '{"city": "Łódź}\\"<tool_call>"}'], ["add", '{"a": [1, {"b": 2}]}']],
    ),
    ("hermes", '<tool_call>{"name": "add", "arguments": null}</tool_call>', "", [["add", "{}"]]),
    ("hermes", '<tool_call>{"name": "add"}', "", [["add", "{}"]]),
    ("hermes", '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [["add", '{"a": 1}']]),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": "cut o', "", [["add", '{"a": "cut o']]),
    (
        "hermes",
        '<tool_call>{"name": "add", "arguments": {}}<tool_call>{"name": "add", "arguments": {"a": 2}} and so',
        " and so",
        [["add", "{}"], ["add", '{"a": 2}']],
    ),
    *(
        ("hermes", text, text, [])
        for text in (
            'a \n<tool_call>{"name": "rm", "arguments": {}}</tool_call> b',
            "<tool_call> no JSON </tool_call>",
            "<tool_call>",
            "2 <tool_cal",
            'x <tool_call>{"name": ["add"], "arguments": {}}',
            '<tool_call>{"arguments": {"a": 1}}</tool_call>',
            '<tool_call>{"na',
            "</tool_call> \n",
        )
    ),
    ("llama3", '{"name": "add", "parameters": {"a": 1, "b": 2}}', "", [["add", '{"a": 1, "b": 2}']]),
    (
        "llama3",
        '\n {"type": "function", "name": "add", "parameters": {}}; {"name": "add", "parameters": {"a": 5}}\n',
        "",
        [["add", "{}"], ["add", '{"a": 5}']],
    ),
    *(
        ("llama3", text, text, [])
        for text in (
            'The JSON is {"name": "add", "parameters": {}}',
            '{"name": "Bob", "parameters": {"age": 5}} is somebody',
            '{"sum": 3}',
            " \n{",
            "",
            "  ",
        )
    ),
    (
        "mistral",
        'Well. [TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}, '
        '{"name": "get_weather", "arguments": {"city": "[TOOL_CALLS]"}}]',
        "Well.",
        [["add", '{"a": 1}'], ["get_weather", '{"city": "[TOOL_CALLS]"}']],
    ),
    (
        "mistral",
        '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{"city": "]"}',
        "",
        [["add", '{"a": 1}'], ["get_weather", '{"city": "]"}']],
    ),
    ("mistral", '[TOOL_CALLS]add{"a": {}}', "", [["add", '{"a": {}}']]),
    *(
        ("mistral", text, text, [])
        for text in (
            "plain [TOOL_",
            "[TOOL_CALLS]rm[ARGS]{}",
            "a\n[TOOL_CALLS]a line\nand another",
            "[TOOL_CALLS]" + "add" * 100,
        )
    ),
    ("mistral", "[TOOL_CALLS]foo\n[TOOL_CALLS]add{}", "[TOOL_CALLS]foo\n", [["add", "{}"]]),
    (
        "pythonic",
        '[get_weather(city="Łódź, (]\\"", days=3), add(a=-1.5, b=[1, {\'x\': True}], c=None, d=(1, 2), e="""a"b""")]\n',
        "",
        [
            ["get_weather", '{"city": "Łódź, (]\\"", "days": 3}'],
            ["add", '{"a": -1.5, "b": [1, {"x": true}], "c": null, "d": [1, 2], "e": "a\\"b"}'],
        ],
    ),
    ("pythonic", " [ add ( ) , add(\na = 'x',\n), ] so", " so", [["add", "{}"], ["add", '{"a": "x"}']]),
    ("pythonic", '[get_weather("Oslo", 2, unit=C)]', "", [["get_weather", '{"city": "Oslo", "days": 2, "unit": "C"}']]),
    ("pythonic", "[add(1, f(x)[0], a==b, true)]", "", [["add", '{"0": 1, "1": "f(x)[0]", "2": "a==b", "3": true}']]),
    ("pythonic", '[add(a="\\ud800", b=1e999, c="\\d")]', "", [["add", '{"a": "\\ud800", "b": "1e999", "c": "\\\\d"}']]),
    ("pythonic", '[add(a=1, b="cut', "", [["add", '{"a": 1']]),
    ("pythonic", "[add(a=1), ", "", [["add", '{"a": 1}']]),
    ("pythonic", "[add(a=1), rm(b=2)]", ", rm(b=2)]", [["add", '{"a": 1}']]),
    *(
        ("pythonic", text, text, [])
        for text in (
            "I call [add(a=1)]",
            "[rm(a=1)]",
            "[add, get_weather]",
            "[1, 2]",
            "[]",
            "[ad",
            "[add b()]",
            " \n[",
            "add(a=1)",
        )
    ),
    (
        "qwen3_coder",
        f"I look.\n\n{QWEN3_CALL}\n<tool_call>\n<function=add>\n</function>\n</tool_call>\n",
        "I look.",
        [["get_weather", '{"city": "Łódź <b>\\n", "days": 3}'], ["add", "{}"]],
    ),
    (
        "qwen3_coder",
        "<function=get_weather><parameter=dry>True</parameter><parameter=places>['a', 1]</parameter></function> so",
        " so",
        [["get_weather", '{"dry": true, "places": ["a", 1]}']],
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=get_weather>\n<parameter=wind>\nNone\n</parameter>\n<parameter=days>\nsoon\n"
        "</parameter>\n<parameter=unit>\n1\n</parameter>\n<parameter=other>\n1\n</parameter>\n</tool_call>",
        "",
        [["get_weather", '{"wind": null, "days": "soon", "unit": 1, "other": "1"}']],
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=add>\n<parameter=a>\n\n\n</parameter>\n<parameter=b></parameter>\n",
        "",
        [["add", '{"a": "\\n", "b": ""']],
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=add>\n<parameter=a>\nif <b> </functi",
        "",
        [["add", '{"a": "if <b> </functi']],
    ),
    (
        "qwen3_coder",
        f"<tool_call> {QWEN3_CALL[:-1]}",
        "<tool_call>\n</tool_call",
        [["get_weather", '{"city": "Łódź <b>\\n", "days": 3}']],
    ),
    *(
        ("qwen3_coder", text, text, [])
        for text in (
            "a \n<tool_call>\n<function=rm>\n</function>\n</tool_call> b",
            '<tool_call>\n{"name": "add"}\n</tool_call>',
            "<tool_call>\n<function=ad",
            "<tool_call>\n",
            "1 <function=",
            "</tool_call> \n",
        )
    ),
    (
        "list",
        '[{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {}}]',
        "",
        [["add", '{"a": 1}'], ["add", "{}"]],
    ),
    ("list", '[{"name": "add", "arguments": {"a', "", [["add", '{"a']]),
    ("list", "not a list", "not a list", []),
    ("list", '[{"name": "rm"}] and', '[{"name": "rm"}] and', []),
    ("arguments", '{"a": 1}', "", [["add", '{"a": 1}']]),
]


@pytest.mark.parametrize(("form", "answer", "content", "calls"), ANSWERS)
def test_calls_are_told_from_text(form: str, answer: str, content: str, calls: list[list[str]]) -> None:
    """Each format's calls come out with name and arguments as written; all that is no call stays text, unchanged."""
    whole = read(READERS[form](), [answer])
    assert (whole.content, whole.calls) == (content, calls)
    assert read(READERS[form](), list(answer)) == whole


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text('ab{}[]",\\ é', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)
CALLS = st.lists(
    st.tuples(st.sampled_from(sorted(NAMES)), st.dictionaries(st.text("xyz", min_size=1), JSON_VALUES, max_size=3)),
    min_size=1,
    max_size=3,
)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def cut(text: str, places: list[int]) -> list[str]:
    bounds = [0, *sorted({place for place in places if place < len(text)}), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(bounds)]


def written(form: str, calls: list[tuple[str, dict]]) -> str:
    objects = [
        json.dumps({"name": name, "parameters" if form == "llama3" else "arguments": given}) for name, given in calls
    ]
    match form:
        case "pythonic":
            listed = (
                f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})" for name, given in calls
            )
            return f"[{', '.join(listed)}]"
        case "hermes":
            return "".join(f"<tool_call>\n{call}\n</tool_call>\n" for call in objects)
        case "llama3":
            return "; ".join(objects)
        case "mistral":
            return f"[TOOL_CALLS] [{', '.join(objects)}]"
        case "list":
            return f"[{', '.join(objects)}]"
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(given)}" for name, given in calls)


@pytest.mark.parametrize("form", ["hermes", "llama3", "mistral", "list", "mistral_11", "pythonic"])
@given(calls=CALLS, places=CUTS)
def test_any_calls_cut_anywhere_are_read_back(form: str, calls: list[tuple[str, dict]], places: list[int]) -> None:
    """Whatever the arguments hold, the calls that were written come back whole, and no text beside them."""
    found = read(READERS[form.removesuffix("_11")](), cut(written(form, calls), places))
    assert found.content == ""
    assert [(name, json.loads(arguments)) for name, arguments in found.calls] == calls


STRINGS = st.text("ab<>/=\"'\\ \n\té")
TYPED = st.fixed_dictionaries(
    {},
    optional={
        "city": STRINGS,
        "days": st.integers(),
        "dry": st.booleans(),
        "places": st.lists(JSON_VALUES, max_size=3),
        "more": st.dictionaries(st.text("abc"), JSON_VALUES, max_size=3),
        "wind": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "note": st.none() | STRINGS,
        "unit": st.sampled_from(["C", "F", 1]),
        "a <key": STRINGS,
    },
)


def bare(value: object, pythons: bool) -> str:
    """A value as Qwen's templates write it: strings as they are, others in JSON, or as Qwen 3.5 has them, in Python."""
    if isinstance(value, str):
        return value
    return repr(value) if pythons else json.dumps(value, ensure_ascii=False)


@given(calls=st.lists(TYPED, min_size=1, max_size=3), pythons=st.booleans(), places=CUTS)
def test_bare_values_come_back_in_their_parameters_types(calls: list[dict], pythons: bool, places: list[int]) -> None:
    """What Qwen3-Coder's template writes of arguments is read back as the schema has it, wherever it is cut."""
    text = ""
    for given_ in calls:
        values = "".join(f"<parameter={key}>\n{bare(each, pythons)}\n</parameter>\n" for key, each in given_.items())
        text += f"\n<tool_call>\n<function=get_weather>\n{values}</function>\n</tool_call>"
    found = read(READERS["qwen3_coder"](), cut(text, places))
    assert found.content == ""
    assert [json.loads(arguments) for _, arguments in found.calls] == calls


MARKS = ["<tool_call>", "</tool_call>", "<tool", "[TOOL_CALLS]", "[ARGS]"]
MARKS += [
    "<function=",
    "</function>",
    "<parameter=",
    "</parameter>",
    "<function=add>",
    "<parameter=a>",
    "add(",
    "'''",
    "=",
]
PARTS = ['{"name": "add", ', '"arguments": {', '{"name": "add", "arguments": {"a": 1}}', "add", *'{}[]()",;\\x \n']
SCRAPS = st.lists(st.sampled_from(MARKS + PARTS), max_size=14)


@pytest.mark.parametrize("form", [*READERS])
@given(scraps=SCRAPS, places=CUTS)
@example(scraps=["[TOOL_CALLS]", "add", "\n", "[TOOL_CALLS]", "add", "{", "}"], places=[16, 17])
def test_cuts_change_nothing(form: str, scraps: list[str], places: list[int]) -> None:
    """Of any text, broken calls included, the same is found in one piece, in single characters and in other pieces."""
    text = "".join(scraps)
    whole = read(READERS[form](), [text])
    assert read(READERS[form](), list(text)) == whole
    assert read(READERS[form](), cut(text, places)) == whole


def test_a_demanded_call_has_a_schema_of_its_own() -> None:
    """The schema of demanded calls takes a call of each function with arguments that fit, references included."""
    node = {
        "type": "object",
        "properties": {"value": {"$ref": "#/$defs/number"}, "next": {"$ref": "#"}},
        "required": ["value"],
        "$defs": {"number": {"type": "integer"}},
    }
    schema = calls_schema([("add", node), ("stop", None)], parallel=True)
    Draft202012Validator.check_schema(schema)
    judge = Draft202012Validator(schema)
    good = [
        [{"name": "add", "arguments": {"value": 1, "next": {"value": 2}}}],
        [{"name": "stop", "arguments": {}}, {"name": "add", "arguments": {"value": 0}}],
    ]
    bad = [
        [],
        [{"name": "add", "arguments": {"value": "1"}}],
        [{"name": "add", "arguments": {"value": 1, "next": {"value": "2"}}}],
        [{"name": "stop", "arguments": {"x": 1}}],
        [{"name": "rm", "arguments": {}}],
        {"name": "stop", "arguments": {}},
    ]
    assert [judge.is_valid(each) for each in good + bad] == [True] * len(good) + [False] * len(bad)
    assert not Draft202012Validator(calls_schema([("stop", None)], parallel=False)).is_valid(good[1][:1] * 2)
