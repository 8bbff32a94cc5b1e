"""How a chat template writes a call of a tool, known by the marks that it teaches the model.

Three families, as their models' own templates have them: ``hermes`` (NousResearch's Hermes, Qwen 2.5 and 3), one JSON
object between ``<tool_call>`` and ``</tool_call>`` for each call; ``llama3_json`` (Llama 3.1, 3.2 and 3.3), one JSON
object with ``parameters``, sometimes behind ``<|python_tag|>``; ``mistral``, a JSON list behind ``[TOOL_CALLS]``, or,
since Mistral's eleventh tokenizer, for each call ``[TOOL_CALLS]``, the name, ``[ARGS]`` and a JSON object.
"""

import re
from typing import Final, Literal, get_args

ToolCallFormat = Literal["hermes", "llama3_json", "mistral"]
TOOL_CALL_FORMATS: Final[tuple[ToolCallFormat, ...]] = get_args(ToolCallFormat)

_TOOLS: Final = re.compile(r"\{[{%][^{}%]*\btools\b")
_OTHER_BODIES: Final = ("<function=", "<arg_key>", "<parameter=")
"""What stands between ``<tool_call>`` marks where it is no JSON (Qwen3-Coder, GLM)."""


def tool_call_format(chat_template: str) -> ToolCallFormat | None:
    """The format that a template teaches; None where it knows no tools, or writes calls in another way."""
    if not _TOOLS.search(chat_template):
        return None
    if "[TOOL_CALLS]" in chat_template:
        return "mistral"
    if "<tool_call>" in chat_template:
        return None if any(mark in chat_template for mark in _OTHER_BODIES) else "hermes"
    if "<|python_tag|>" in chat_template or re.search(r"""["']parameters\\?["'] ?: ?""", chat_template):
        return "llama3_json"
    return None
