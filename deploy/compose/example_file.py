"""``.env.example``: every variable with its explanation and its default, as a comment."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.compose.errors import ComposeError

_SETTING: Final = re.compile(r"# (?P<name>[A-Z][A-Z0-9_]*)=(?P<default>.*)")
_HEADING: Final = "# ----"


@dataclass(frozen=True, slots=True)
class ExplainedVariable:
    """A variable, its default, and the comment above it as one paragraph."""

    name: str
    default: str
    explanation: str


def read_example(path: Path) -> tuple[ExplainedVariable, ...]:
    """The variables of a file; raises ComposeError for a line that is no comment, or a variable without explanation."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ComposeError(f"{path} cannot be read ({error}); restore it") from error
    found: list[ExplainedVariable] = []
    comment: list[str] = []
    for number, line in enumerate(lines, start=1):
        setting = _SETTING.fullmatch(line)
        if setting is not None:
            # neighbours may share a sentence, and then the first one has it
            if not comment and not found:
                raise ComposeError(f"{path}, line {number}: nothing explains {setting['name']}; say what it is for")
            explanation = " ".join(comment) if comment else found[-1].explanation
            found.append(ExplainedVariable(setting["name"], setting["default"], explanation))
            comment = []
        elif not line or line.startswith(_HEADING):
            comment = []
        elif line.startswith("# "):
            comment.append(line[2:])
        else:
            raise ComposeError(f"{path}, line {number}: {line!r} is no comment; defaults are given as # NAME=VALUE")
    return tuple(found)
