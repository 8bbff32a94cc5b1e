"""Which requests go to the large model without asking the small one."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fathom_client import protocol
from fathom_server.cascade.settings import RouterSettings

Route = Literal["route_length", "route_task", "route_pattern", "route_prompt"]
"""Why the router chose the large model."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request asks, as far as it can be read: ``last`` is the last user message, or the whole text.

    A request of token ids has no text; its ``characters`` are its tokens.
    """

    last: str
    characters: int

    @classmethod
    def of(cls, tensors: Mapping[str, npt.NDArray[Any]]) -> "Prompt":
        """Read it from a request's tensors; what cannot be read is left to the model, which says why it refuses it."""
        if protocol.TEXT_INPUT in tensors:
            text = _text(tensors[protocol.TEXT_INPUT])
            return cls(text, len(text))
        if protocol.MESSAGES in tensors:
            return cls._of_messages(_text(tensors[protocol.MESSAGES]))
        return cls("", int(tensors[protocol.INPUT_IDS].size) if protocol.INPUT_IDS in tensors else 0)

    @classmethod
    def _of_messages(cls, text: str) -> "Prompt":
        try:
            given = json.loads(text)
            messages = given["messages"] if isinstance(given, dict) else given
            contents = [(message.get("role"), _content(message.get("content"))) for message in messages]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return cls("", len(text))
        last = next((content for role, content in reversed(contents) if role == "user"), "")
        return cls(last, sum(len(content) for _, content in contents))


class Router:
    """Applies a cascade's rules; the cheap ones first."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self._patterns = [re.compile(pattern) for pattern in settings.large_patterns]

    @property
    def needs_embedding(self) -> bool:
        """Whether ``by_embedding`` has a say."""
        return self._settings.prompt_threshold is not None

    def by_rules(self, prompt: Prompt, parameters: Mapping[str, Any]) -> Route | None:
        """Why a request goes straight to the large model; None if no rule says so."""
        settings = self._settings
        if settings.max_prompt_characters and prompt.characters > settings.max_prompt_characters:
            return "route_length"
        if parameters.get(protocol.TASK_PARAMETER) in settings.large_tasks:
            return "route_task"
        if any(pattern.search(prompt.last) for pattern in self._patterns):
            return "route_pattern"
        return None

    def by_embedding(self, embedding: npt.NDArray[np.float32]) -> Route | None:
        """The classifier's word on a prompt's embedding [dimension]; raises SettingsError for another encoder's."""
        settings = self._settings
        if settings.classifier is None or settings.prompt_threshold is None:
            return None
        return "route_prompt" if settings.classifier.probability(embedding) > settings.prompt_threshold else None


def _text(tensor: npt.NDArray[Any]) -> str:
    element = tensor.reshape(-1)[0] if tensor.size else b""
    return element if isinstance(element, str) else bytes(element).decode("utf-8", "replace")


def _content(content: object) -> str:
    """A message's text; of one in parts, that of its text parts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
