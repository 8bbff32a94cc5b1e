"""A user's own signal: a Python file with one function."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fathom_server.errors import SettingsError

FUNCTION: Final = "trust"

Hook = Callable[["SmallAnswer"], float]


@dataclass(frozen=True, slots=True)
class SmallAnswer:
    """What a hook is asked about: a question and the small model's answer to it.

    ``prompt`` is the last user message, or the whole text, empty for a request of token ids. ``logprobs`` and
    ``entropies`` have a number a token, in nats; ``parameters`` are the request's own.
    """

    prompt: str
    text: str
    finish_reason: str
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    parameters: Mapping[str, Any]


def load_hook(path: Path) -> Hook:
    """The function ``trust`` of a file; raises SettingsError naming the file and what is wrong.

    ``trust(answer: SmallAnswer) -> float`` is called for each whole answer, on any thread, several at once; what it
    raises counts as doubt, and is logged.
    """
    spec = importlib.util.spec_from_file_location("fathom_trust_hook", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SettingsError(f"the hook {path} is no Python file; name one with a function {FUNCTION}(answer)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's code may raise whatever it likes
        raise SettingsError(f"the hook {path} cannot be loaded: {type(error).__name__}: {error}") from error
    function = getattr(module, FUNCTION, None)
    if not callable(function):
        raise SettingsError(f"the hook {path} has no function {FUNCTION}(answer), which gives a number; write one")
    hook: Hook = function
    return hook
