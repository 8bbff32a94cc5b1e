"""How a chat template writes a call of a tool, known by the marks that it teaches the model.

Five families, as their models' own templates have them: ``hermes`` (NousResearch's Hermes, Qwen 2.5 and 3), one JSON
object between ``<tool_call>`` and ``</tool_call>`` for each call; ``qwen3_coder`` (Qwen3-Coder, Qwen 3.5, Nemotron 3),
``<function=name>`` with a ``<parameter=key>`` for each argument between the same marks; ``llama3_json`` (Llama 3.1, 3.2
and 3.3), one JSON object with ``parameters``, sometimes behind ``<|python_tag|>``; ``pythonic`` (Llama 3.2 and 4), a
list of calls as Python writes them; ``mistral``, a JSON list behind ``[TOOL_CALLS]``, or, since Mistral's eleventh
tokenizer, for each call ``[TOOL_CALLS]``, the name, ``[ARGS]`` and a JSON object.
"""

import re
from typing import Final, Literal, get_args

ToolCallFormat = Literal["hermes", "llama3_json", "mistral", "pythonic", "qwen3_coder"]
TOOL_CALL_FORMATS: Final[tuple[ToolCallFormat, ...]] = get_args(ToolCallFormat)

_TOOLS: Final = re.compile(r"\{[{%][^{}%]*\btools\b")
_OTHER_BODIES: Final = ("<function=", "<arg_key>", "<parameter=")
"""What stands between ``<tool_call>`` marks where it is no JSON: Qwen3-Coder's, GLM's."""
_PYTHONIC: Final = re.compile(r"\[\w+\(\w+ ?= ?\w+")
"""The beginning of a list of calls that is shown as an example, such as ``[func_name1(params_name1=params_value1``."""


def tool_call_format(chat_template: str) -> ToolCallFormat | None:
    """The format that a template teaches; None where it knows no tools, or writes calls in another way."""
    if not _TOOLS.search(chat_template):
        return None
    if "[TOOL_CALLS]" in chat_template:
        return "mistral"
    if "<tool_call>" in chat_template:
        if "<function=" in chat_template and "<parameter=" in chat_template:
            return "qwen3_coder"
        return None if any(mark in chat_template for mark in _OTHER_BODIES) else "hermes"
    if _PYTHONIC.search(chat_template):
        return "pythonic"
    if "<|python_tag|>" in chat_template or re.search(r"""["']parameters\\?["'] ?: ?""", chat_template):
        return "llama3_json"
    return None
