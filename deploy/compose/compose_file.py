"""``docker-compose.yml``: its services, and the variables that it takes from the environment."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.compose.errors import ComposeError

_VARIABLE: Final = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?::?(?P<kind>[-+?])(?P<word>[^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable as one place of the file takes it.

    ``default`` stands where it is not set; None where only the fact that it is set counts (``${NAME:+word}``).
    """

    name: str
    default: str | None


@dataclass(frozen=True, slots=True)
class ComposeFile:
    """A compose file: its text, and what YAML makes of it (anchors and merges resolved, variables as they stand)."""

    path: Path
    text: str
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "ComposeFile":
        """Read a file; raises ComposeError for one that is missing or no YAML map."""
        try:
            text = path.read_text(encoding="utf-8")
            content = yaml.safe_load(text)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ComposeError(f"{path} cannot be read ({' '.join(str(error).split())}); mend or restore it") from error
        if not isinstance(content, dict) or not isinstance(content.get("services"), dict):
            raise ComposeError(f"{path} is no compose file: it has no map of services")
        return cls(path, text, content)

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """The services by name."""
        services: dict[str, dict[str, Any]] = self.content["services"]
        return services

    def variables(self) -> tuple[Variable, ...]:
        """Every variable in every place of the file, comments left out."""
        lines = "\n".join(line for line in self.text.splitlines() if not line.lstrip().startswith("#"))
        return tuple(
            Variable(found["name"], None if found["kind"] == "+" else found["word"] or "")
            for found in _VARIABLE.finditer(lines)
        )

    def with_defaults(self) -> dict[str, Any]:
        """The content as it is where no variable is set; a text that is a number stays a text."""
        filled: dict[str, Any] = _filled(self.content)
        return filled


def _filled(value: Any) -> Any:
    match value:
        case dict():
            return {key: _filled(each) for key, each in value.items()}
        case list():
            return [_filled(each) for each in value]
        case str():
            return _VARIABLE.sub(lambda found: "" if found["kind"] == "+" else found["word"] or "", value)
        case _:
            return value
