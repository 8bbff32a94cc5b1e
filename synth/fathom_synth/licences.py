"""What the teacher's licence says about training on its answers: ``licences.toml`` and the decision made from it."""

import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from fathom_synth.errors import LicenceError

Training = Literal["allowed", "conditional", "forbidden", "unknown"]
NONE = "none"
"""The licence of a card that names none."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a licence says: ``training``, its conditions in a few words, and where it can be read."""

    training: Training
    conditions: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided for a job, for every row and the card. ``override`` is what the user took on himself."""

    licence: str
    training: Training
    conditions: str
    source: str
    override: str | None

    def to_json(self) -> dict[str, Any]:
        """The decision as JSON holds it."""
        return asdict(self)


@cache
def policies() -> dict[str, Policy]:
    """The table of licences by identifier."""
    content = files("fathom_synth").joinpath("licences.toml").read_text(encoding="utf-8")
    return {name: Policy(**entry) for name, entry in tomllib.loads(content).items()}


def decide(licence: str | None, override: str | None, where: str) -> Decision:
    """Decide whether a teacher of this licence may write training data.

    ``override`` is the licence that the user names to take on its conditions, or its refusal; ``where`` is the card.
    Raises LicenceError where the licence does not allow it, or is not known, and the user did not name it.
    """
    name = (licence or NONE).strip().lower()
    policy = policies().get(name, Policy("unknown"))
    if override is not None and override.strip().lower() != name:
        raise LicenceError(
            f"teacher.override_licence is {override!r}, and the card {where} says {name!r}; name what you override"
        )
    if policy.training == "allowed":
        override = None
    elif override is None:
        raise LicenceError(_refusal(name, policy, where))
    return Decision(name, policy.training, policy.conditions, policy.source, override)


def _refusal(name: str, policy: Policy, where: str) -> str:
    remedy = f'choose another teacher, or take it on yourself with override_licence = "{name}" in [teacher]'
    if name == NONE:
        return f"{where}: names no licence, so nobody knows whether its answers may train a model; {remedy}"
    if policy.training == "unknown":
        return f"{where}: its licence {name!r} is not in the table of those that are known; {remedy}"
    verb = "forbids training on its answers" if policy.training == "forbidden" else "sets conditions"
    return f"{where}: its licence {name!r} {verb} ({policy.conditions}; {policy.source}); {remedy}"
