"""Rotary position embedding as a config.json asks for it: which values are turned, and how fast."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fathom_export.decoder.config_values import ConfigValues
from fathom_export.errors import CheckpointError, UnsupportedArchitectureError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]

_PI: Final = math.pi


class RopeScaling(ABC):
    """A way to stretch a rotary embedding over more positions than the model was first trained on."""

    attention_factor: float
    """What cosines and sines are multiplied by."""

    @abstractmethod
    def frequencies(self, periods: "Float32Array", theta: float) -> "Float32Array":
        """Angles a position, float32 [n], of pairs whose unscaled angle a position is 1 / ``periods``."""


@dataclass(frozen=True, slots=True)
class LinearScaling(RopeScaling):
    """Positions are divided by a factor."""

    factor: float
    attention_factor: float = 1.0

    def frequencies(self, periods: "Float32Array", theta: float) -> "Float32Array":
        """See the base class."""
        return 1.0 / periods / self.factor


@dataclass(frozen=True, slots=True)
class Llama3Scaling(RopeScaling):
    """Slow pairs are divided by a factor, fast ones are left, those between are interpolated (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int
    attention_factor: float = 1.0

    def frequencies(self, periods: "Float32Array", theta: float) -> "Float32Array":
        """See the base class; as ``_compute_llama3_parameters`` of transformers."""
        import numpy as np

        plain = 1.0 / periods
        wavelengths = 2 * _PI / plain
        slow = wavelengths > self.original_positions / self.low_freq_factor
        fast = wavelengths < self.original_positions / self.high_freq_factor
        scaled = np.where(slow, plain / self.factor, plain)
        spread = self.high_freq_factor - self.low_freq_factor
        smooth = (self.original_positions / wavelengths - self.low_freq_factor) / spread
        between = (1 - smooth) * scaled / self.factor + smooth * scaled
        return np.where(~slow & ~fast, between, scaled).astype(np.float32)


@dataclass(frozen=True, slots=True)
class YarnScaling(RopeScaling):
    """Pairs are interpolated by how often they turn within the original context (YaRN, arXiv 2309.00071)."""

    factor: float
    attention_factor: float
    original_positions: int
    beta_fast: float
    beta_slow: float
    truncate: bool

    def frequencies(self, periods: "Float32Array", theta: float) -> "Float32Array":
        """See the base class; as ``_compute_yarn_parameters`` of transformers."""
        import numpy as np

        dimensions = 2 * len(periods)
        low, high = (self._pair(turns, dimensions, theta) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dimensions - 1)
        if low == high:
            high += 0.001
        ramp = ((np.arange(len(periods), dtype=np.float32) - low) / (high - low)).clip(0, 1)
        kept = 1 - ramp
        frequencies: Float32Array = (1.0 / (self.factor * periods) * (1 - kept) + 1.0 / periods * kept).astype(
            np.float32
        )
        return frequencies

    def _pair(self, turns: float, dimensions: int, theta: float) -> float:
        """Which pair, counted with fractions, turns so often over the original context."""
        return dimensions * math.log(self.original_positions / (turns * 2 * _PI)) / (2 * math.log(theta))


@dataclass(frozen=True, slots=True)
class LongRopeScaling(RopeScaling):
    """One factor a pair (LongRoPE, arXiv 2402.13753), those for contexts up to ``original_positions``.

    A longer context takes other factors for all of its positions, which no cache of keys survives.
    """

    short_factors: tuple[float, ...]
    attention_factor: float
    original_positions: int

    def frequencies(self, periods: "Float32Array", theta: float) -> "Float32Array":
        """See the base class."""
        import numpy as np

        return 1.0 / (np.array(self.short_factors, np.float32) * periods)


@dataclass(frozen=True, slots=True)
class Rope:
    """The first ``dimensions`` values of each head are turned, in pairs (i, i + dimensions / 2)."""

    dimensions: int
    theta: float
    scaling: RopeScaling | None = None

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by."""
        return 1.0 if self.scaling is None else self.scaling.attention_factor

    @property
    def positions_limit(self) -> int | None:
        """Up to which context this description holds, or None."""
        return self.scaling.original_positions if isinstance(self.scaling, LongRopeScaling) else None


SUPPORTED_ROPE_TYPES: Final = ("default", "dynamic", "linear", "llama3", "longrope", "yarn")


@dataclass(frozen=True, slots=True)
class RopeReader:
    """Reads rope sections of one model's config.json as transformers 5 standardises them.

    ``original_positions`` is what stands in config.json itself, and counts before what a section says.
    """

    model_type: str
    head_dim: int
    max_positions: int
    original_positions: int | None
    takes_partial: bool

    def read(self, section: ConfigValues, theta: float) -> Rope:
        """The rope of one section; ``theta`` is the base where the section has none.

        Raises UnsupportedArchitectureError for a kind of scaling that is not supported, CheckpointError for a value
        that makes no sense.
        """
        kind = section.config.get("rope_type", section.config.get("type", "default"))
        # transformers reads these names of early Phi-3 checkpoints as longrope
        if self.model_type == "phi3" and kind in ("su", "yarn"):
            kind = "longrope"
        if kind not in SUPPORTED_ROPE_TYPES:
            raise UnsupportedArchitectureError(
                f"{section.path}: rope scaling {kind!r} of this {self.model_type} is not supported; supported: "
                f"{', '.join(SUPPORTED_ROPE_TYPES)}"
            )
        dimensions = self._dimensions(section)
        return Rope(dimensions, section.positive("rope_theta", theta), self._scaling(kind, section, dimensions))

    def _dimensions(self, section: ConfigValues) -> int:
        factor = section.positive("partial_rotary_factor", 1.0)
        if factor != 1 and not self.takes_partial:
            raise UnsupportedArchitectureError(
                f"{section.path}: partial_rotary_factor {factor!r} of this {self.model_type} is not supported; "
                "supported: 1.0"
            )
        dimensions = int(self.head_dim * factor)
        if dimensions % 2 or not 0 < dimensions <= self.head_dim:
            raise CheckpointError(
                f"{section.path}: partial_rotary_factor {factor!r} of head_dim {self.head_dim} turns {dimensions} "
                f"values, but rotary embedding turns pairs, at most {self.head_dim} values"
            )
        return dimensions

    def _scaling(self, kind: str, section: ConfigValues, dimensions: int) -> RopeScaling | None:
        if kind in ("default", "dynamic"):
            # "dynamic" changes only what lies beyond max_position_embeddings, and no graph goes there
            return None
        if kind == "linear":
            return LinearScaling(section.positive("factor"))
        original = self.original_positions or section.size("original_max_position_embeddings", self.max_positions)
        if kind == "llama3":
            low, high = section.positive("low_freq_factor"), section.positive("high_freq_factor")
            if low >= high:
                raise CheckpointError(
                    f"{section.path}: low_freq_factor {low} must be below high_freq_factor {high} in rope parameters"
                )
            return Llama3Scaling(section.positive("factor"), low, high, original)
        factor = section.optional_positive("factor") or self.max_positions / original
        if kind == "yarn":
            return YarnScaling(
                factor=factor,
                attention_factor=section.optional_positive("attention_factor") or _yarn_attention(section, factor),
                original_positions=original,
                beta_fast=section.optional_positive("beta_fast") or 32.0,
                beta_slow=section.optional_positive("beta_slow") or 1.0,
                truncate=section.flag("truncate", default=True),
            )
        attention = section.optional_positive("attention_factor")
        if attention is None:
            attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
        return LongRopeScaling(section.numbers("short_factor", dimensions // 2), attention, original)


def _yarn_attention(section: ConfigValues, factor: float) -> float:
    """The factor of YaRN's paper, section 3.4, with DeepSeek's ``mscale`` where both are given."""

    def grown(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    mscale: Any = section.config.get("mscale")
    if mscale and section.config.get("mscale_all_dim"):
        return grown(section.positive("mscale")) / grown(section.positive("mscale_all_dim"))
    return grown(1.0)
