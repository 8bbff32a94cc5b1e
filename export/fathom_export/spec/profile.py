"""Profiles: what an LLM's precision is chosen for, in a word instead of settings."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from fathom_export.errors import SpecError
from fathom_export.spec.quantisation import Quantisation

Profile = Literal["latency", "throughput", "adaptive"]


@dataclass(frozen=True, slots=True)
class ProfileForm:
    """What a profile stands for: a precision and its settings, of the cpu dialect.

    ``fast_lane`` is the profile of the same weights a second time, for requests that run nearly alone.
    """

    precision: str
    block_size: int | None = None
    fast_lane: "Profile | None" = None


PROFILES: Final[Mapping[Profile, ProfileForm]] = {
    "latency": ProfileForm("int4", block_size=128),
    "throughput": ProfileForm("int8"),
    "adaptive": ProfileForm("int8", fast_lane="latency"),
}


def with_profile(values: Mapping[str, Any]) -> dict[str, Any]:
    """An LLM's values with what its profile says, where it has one; what the profile decides must not be given.

    Raises SpecError for a key that is given all the same.
    """
    profile = values.get("profile")
    if profile is None:
        return dict(values)
    form = PROFILES[profile]
    if "precision" in values:
        raise SpecError(
            f"precision is {values['precision']!r}, but profile {profile!r} means {form.precision}; leave one of the "
            "two out"
        )
    quantisation = values.get("quantisation", Quantisation())
    if form.block_size is not None:
        default = Quantisation().block_size
        if quantisation.block_size not in (default, form.block_size):
            raise SpecError(
                f"quantisation.block_size is {quantisation.block_size}, but profile {profile!r} means "
                f"{form.block_size}; leave one of the two out"
            )
        quantisation = replace(quantisation, block_size=form.block_size)
    return {**values, "precision": form.precision, "quantisation": quantisation}


def profile_fault(profile: Profile, precision: str, dialect: str) -> str | None:
    """Why a profile does not go with a precision and dialect; None if it does."""
    form = PROFILES[profile]
    if dialect != "cpu":
        return f"profile is {profile!r}, but dialect is {dialect!r}; profiles are of the cpu dialect, leave one out"
    if precision != form.precision:
        return f"profile is {profile!r}, which means precision {form.precision}, not {precision}"
    return None
