"""What a request's tools mean for its generation, and for reading its answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fathom_server.gateway.catalog import ServedModel
from fathom_server.gateway.errors import InvalidApiRequestError
from fathom_server.gateway.schemas.chat import ChatRequest, NamedToolChoice
from fathom_server.gateway.tools.call_list import CallListReader
from fathom_server.gateway.tools.events import ToolCallReader
from fathom_server.gateway.tools.forced import ArgumentsReader, arguments_schema, calls_schema
from fathom_server.gateway.tools.hermes import HermesReader
from fathom_server.gateway.tools.llama3 import Llama3Reader
from fathom_server.gateway.tools.mistral import MistralReader
from fathom_server.gateway.tools.pythonic import PythonicReader
from fathom_server.gateway.tools.qwen3_coder import Qwen3CoderReader
from fathom_server.text.tool_call_format import ToolCallFormat

Functions = Mapping[str, Mapping[str, Any] | None]
"""Names of functions, with the schemas of their parameters."""

_READERS: Final[Mapping[ToolCallFormat, Callable[[Functions], ToolCallReader]]] = {
    "hermes": HermesReader,
    "llama3_json": Llama3Reader,
    "mistral": MistralReader,
    "pythonic": PythonicReader,
    "qwen3_coder": Qwen3CoderReader,
}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of one request to one model.

    ``forced`` is the one function that must be called; ``is_required`` demands some call. With ``is_single`` no more
    than one call is given.
    """

    form: ToolCallFormat
    tools: tuple[dict[str, Any], ...]
    functions: Functions
    forced: str | None
    is_required: bool
    is_single: bool

    def options(self) -> dict[str, Any]:
        """The client's options that make the answer hold the calls that are demanded, and let their marks be seen."""
        options: dict[str, Any] = {"tools": self.tools}
        if self.forced is not None:
            options["json_schema"] = arguments_schema(self.functions[self.forced])
        elif self.is_required:
            options["json_schema"] = calls_schema(list(self.functions.items()), parallel=not self.is_single)
        elif self.form == "mistral":
            options["skip_special_tokens"] = False
        return options

    def reader(self) -> ToolCallReader:
        """A reader for one answer."""
        if self.forced is not None:
            return ArgumentsReader(self.forced)
        return CallListReader(self.functions) if self.is_required else _READERS[self.form](self.functions)


def tool_use(request: ChatRequest, model: ServedModel) -> ToolUse | None:
    """What the request's tools mean for ``model``; None where it offers none.

    Raises InvalidApiRequestError for a model whose chat template knows no tools.
    """
    offered = request.offered_tools
    if not offered:
        return None
    if model.tool_calls is None:
        raise InvalidApiRequestError(
            f"the chat template of {model.name!r} knows no tools in a form that is read here (Hermes's and Qwen's, "
            "Llama's, Mistral's); leave tools out, or choose another model",
            param="tools",
            code="unsupported_value",
        )
    tools = tuple(tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in offered)
    choice = request.tool_choice
    return ToolUse(
        form=model.tool_calls,
        tools=tools,
        functions={tool["function"]["name"]: tool["function"].get("parameters") for tool in tools},
        forced=choice.function.name if isinstance(choice, NamedToolChoice) else None,
        is_required=choice == "required",
        is_single=request.parallel_tool_calls is False,
    )
