"""The table of vLLM's engine arguments, and what is wrong with a value beside it."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Self

from fathom_export.errors import SpecError

Kind = Literal["any", "choice", "flag", "list", "null", "number", "table", "text", "whole"]

TABLE_FILE: Final = Path(__file__).with_name("arguments.json")
"""Written by ``python -m fathom_export.vllm.argument_source WHEEL``."""

SOURCE: Final = "AsyncEngineArgs of vllm/engine/arg_utils.py, SamplingParams of vllm/sampling_params.py"

_WORDS: Final[Mapping[Kind, str]] = {
    "flag": "true or false",
    "list": "a list",
    "number": "a number",
    "table": "a table",
    "text": "a text",
    "whole": "a whole number",
}


@dataclass(frozen=True, slots=True)
class Argument:
    """What one argument takes: kinds of JSON values, and the values that vLLM names.

    Where any text will do, as plugins may bring more of them, the named values are no bound.
    """

    kinds: tuple[Kind, ...]
    choices: tuple[str | int, ...] = ()

    def fault(self, value: object) -> str | None:
        """What a value should be instead; None where it will do."""
        if "any" in self.kinds:
            return None
        given = _kinds_of(value) & set(self.kinds)
        is_bound = bool(self.choices) and "text" not in self.kinds
        if given and not (is_bound and given <= {"choice", "whole"} and value not in self.choices):
            return None
        if is_bound:
            near = difflib.get_close_matches(str(value), [str(choice) for choice in self.choices], n=1)
            return f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(map(str, self.choices))}"
        words = [_WORDS[kind] for kind in self.kinds if kind in _WORDS]
        return f"it must be {' or '.join(words)}"


@dataclass(frozen=True, slots=True)
class ArgumentTable:
    """All arguments by name, the version of vLLM that has them, and the names of its sampling parameters."""

    version: str
    arguments: Mapping[str, Argument]
    sampling: tuple[str, ...]

    def as_json(self) -> str:
        """The table as its file holds it."""
        arguments = {
            name: {"kinds": list(argument.kinds), **({"choices": list(argument.choices)} if argument.choices else {})}
            for name, argument in sorted(self.arguments.items())
        }
        table = {"vllm": self.version, "source": SOURCE, "arguments": arguments, "sampling": list(self.sampling)}
        return json.dumps(table, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``as_json`` wrote."""
        raw: dict[str, Any] = json.loads(text)
        arguments = {
            name: Argument(tuple(entry["kinds"]), tuple(entry.get("choices", ())))
            for name, entry in raw["arguments"].items()
        }
        return cls(raw["vllm"], arguments, tuple(raw["sampling"]))

    def check(self, name: str, value: object, where: str) -> None:
        """Raise SpecError, its key at ``where``, for an argument that vLLM has not or a value that it does not take."""
        argument = self.arguments.get(name)
        if argument is None:
            near = difflib.get_close_matches(name, self.arguments, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its arguments are in {TABLE_FILE.name}"
            raise SpecError(f"{where} is no engine argument of vLLM {self.version}; {hint}")
        fault = argument.fault(value)
        if fault is not None:
            raise SpecError(f"{where} is {value!r}; {fault} (vLLM {self.version})")


@cache
def known_arguments() -> ArgumentTable:
    """The table that came with this package."""
    return ArgumentTable.from_json(TABLE_FILE.read_text(encoding="utf-8"))


def _kinds_of(value: object) -> set[Kind]:
    """Every kind that a value may count as."""
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"flag"}
    if isinstance(value, int):
        return {"whole", "number"}
    if isinstance(value, float):
        return {"number"}
    if isinstance(value, str):
        return {"text", "choice"}
    return {"list"} if isinstance(value, list | tuple) else {"table"}
