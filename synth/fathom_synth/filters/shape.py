"""Schema and length: whether an answer has the form that was asked for."""

import json
from collections.abc import Sequence
from typing import Any

from fathom_synth.candidate import Candidate
from fathom_synth.filters.settings import LengthSettings
from fathom_synth.prompts import digest


class SchemaFilter:
    """Drops answers that are no JSON, or do not fit their prompt's schema."""

    def __init__(self) -> None:
        self._validators: dict[str, Any] = {}

    async def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """``not JSON`` or ``does not fit``."""
        return [self._reason(candidate) for candidate in candidates]

    def _reason(self, candidate: Candidate) -> str | None:
        schema = candidate.prompt.json_schema
        if schema is None:
            return None
        try:
            value = json.loads(candidate.sample.text, parse_constant=_no_json)
        except (ValueError, RecursionError):
            return "not JSON"
        import jsonschema

        key = digest(schema)
        if key not in self._validators:
            self._validators[key] = jsonschema.validators.validator_for(schema)(schema)
        return None if self._validators[key].is_valid(value) else "does not fit"


class LengthFilter:
    """Drops answers that were cut off, or are too short or too long."""

    def __init__(self, settings: LengthSettings) -> None:
        self._settings = settings

    async def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """``cut off``, ``too short`` or ``too long``."""
        return [self._reason(candidate) for candidate in candidates]

    def _reason(self, candidate: Candidate) -> str | None:
        limits, sample = self._settings, candidate.sample
        characters = len(sample.text.strip())
        if limits.complete and sample.finish_reason == "length":
            return "cut off"
        if characters < limits.min_characters or sample.tokens < limits.min_tokens:
            return "too short"
        if limits.max_characters is not None and characters > limits.max_characters:
            return "too long"
        if limits.max_tokens is not None and sample.tokens > limits.max_tokens:
            return "too long"
        return None


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
