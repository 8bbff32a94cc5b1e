"""Conversations with tools, as chat templates get them, and the format in which a template writes calls."""

import json
import shutil
from pathlib import Path

import pytest
from tests.server.text.chat_templates import HERMES, LLAMA3, MISTRAL, PYTHONIC, QWEN3_CODER
from transformers import PreTrainedTokenizerFast

from fathom_server.text.tokenizer import TextError, TextTokenizer
from fathom_server.text.tool_call_format import tool_call_format

LARGE = Path("examples/models/large").resolve()
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a place",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CALL = {"type": "function", "id": "callAbc12", "function": {"name": "get_weather", "arguments": {"city": "Łódź"}}}
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How is the weather in Łódź?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"sky": "clear"}', "tool_call_id": "callAbc12", "name": "get_weather"},
]


def with_templates(folder: Path, config: object) -> TextTokenizer:
    shutil.copy(LARGE / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": config, "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"})
    )
    return TextTokenizer.load(folder)


@pytest.mark.parametrize("template", [HERMES, LLAMA3, MISTRAL, PYTHONIC, QWEN3_CODER])
def test_tools_and_calls_are_rendered_as_transformers_renders_them(template: str, tmp_path: Path) -> None:
    """The template gets tools, calls and answers of tools exactly as ``apply_chat_template`` hands them over."""
    ours = with_templates(tmp_path, template)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for messages in (CONVERSATION, CONVERSATION[:2]):
        expected = theirs.apply_chat_template(messages, tools=TOOLS, add_generation_prompt=True, tokenize=False)
        assert ours.render({"messages": messages, "tools": TOOLS}) == expected
        assert "get_weather" in expected
    assert ours.render({"messages": CONVERSATION[:2], "tools": []}) == ours.render(CONVERSATION[:2])


def test_a_template_for_tools_is_taken_where_there_is_one(tmp_path: Path) -> None:
    """Of several named templates the one called tool_use renders conversations with tools, the default the others."""
    tokenizer = with_templates(
        tmp_path, [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": HERMES}]
    )
    assert tokenizer.render(CONVERSATION[:2]) == "plain"
    assert "get_weather" in tokenizer.render({"messages": CONVERSATION[:2], "tools": TOOLS})
    assert tool_call_format(tokenizer.tool_template or "") == "hermes"


def test_further_variables_reach_the_template(tmp_path: Path) -> None:
    """``chat_template_kwargs`` are variables of the template, which cannot replace those of the server."""
    tokenizer = with_templates(tmp_path, "{{ enable_thinking }} {{ bos_token }} {{ messages | length }}")
    further = {"enable_thinking": False, "bos_token": "mine", "messages": []}
    rendered = tokenizer.render({"messages": CONVERSATION[:1], "chat_template_kwargs": further})
    assert rendered == "False <|endoftext|> 1"


@pytest.mark.parametrize(
    ("conversation", "told"),
    [
        ({"messages": []}, "at least one"),
        ({"tools": TOOLS}, "messages must be a list"),
        ({"messages": CONVERSATION, "tools": {}}, "messages.tools must be a list of objects"),
        ({"messages": CONVERSATION, "tools": ["f"]}, "messages.tools must be a list of objects"),
        ({"messages": CONVERSATION, "chat_template_kwargs": 1}, "chat_template_kwargs must be an object"),
        ({"messages": CONVERSATION, "documents": []}, "messages has 'documents'; .* may have messages, tools"),
        ([{"role": "assistant", "content": None}], r"messages\[0\].content must be a string, not NoneType"),
        ([{"role": "user", "content": None, "tool_calls": []}], r"messages\[0\].content must be a string"),
    ],
)
def test_what_is_no_conversation_is_named(conversation: object, told: str, tmp_path: Path) -> None:
    """A conversation that is none is refused with the part that is wrong."""
    with pytest.raises(TextError, match=told):
        with_templates(tmp_path, HERMES).render(conversation)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (HERMES, "hermes"),
        (LLAMA3, "llama3_json"),
        (MISTRAL, "mistral"),
        (PYTHONIC, "pythonic"),
        (QWEN3_CODER, "qwen3_coder"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{% if tools %}<tool_call>\n<function=name>{% endif %}", None),
        ("{% if tools %}<tool_call>name\n<arg_key>key</arg_key>{% endif %}", None),
        ("{% set ns = namespace(found=false) %}{% if tools %}{{ tools[0] }}{% endif %}", None),
        ("{% if tools %}{{ tools }}{% endif %}", None),
        ("<tool_call>{{ messages }}", None),
    ],
)
def test_a_templates_format_is_known_by_its_marks(template: str, form: str | None) -> None:
    """Each family of templates is told apart; one without tools, or with another way of calls, has no format."""
    assert tool_call_format(template) == form
