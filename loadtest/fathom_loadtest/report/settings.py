"""Nested settings as lines of text: the scenario in a report, and what two scenarios differ in."""

from typing import Any


def flat(settings: Any, path: str = "") -> dict[str, Any]:
    """Name every value of nested tables and lists by its path, ``load.users`` or ``tasks[0].model``.

    A list of plain values is one value; keys without a value are left out.
    """
    match settings:
        case dict():
            parts = ((f"{path}.{name}" if path else name, value) for name, value in settings.items())
        case list() | tuple() if any(isinstance(value, dict | list | tuple) for value in settings):
            parts = ((f"{path}[{place}]", value) for place, value in enumerate(settings))
        case _:
            return {path: settings} if settings is not None else {}
    return {name: value for part, inner in parts for name, value in flat(inner, part).items()}


def written(value: Any) -> str:
    """Write one value for a reader."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(written, value)) or "none"
        case float():
            return f"{value:g}"
        case _:
            return str(value)
