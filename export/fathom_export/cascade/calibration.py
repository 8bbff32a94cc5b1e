"""What a calibration found: ``calibration.json``, which export reads when it writes the cascade."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, get_args

from fathom_export.errors import SpecError
from fathom_export.spec.model_spec import CALIBRATION_FILE
from fathom_server.cascade.logistic import Logistic
from fathom_server.cascade.settings import SignalName
from fathom_server.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Calibration:
    """The signal and threshold of a cascade, and what they were measured to give.

    ``learned`` is the regression of the signal ``learned``; ``prompt_threshold`` and ``classifier`` are the router's.
    ``measured`` is for people: the target, the figures, the curves.
    """

    signal: SignalName
    threshold: float
    learned: Logistic | None = None
    prompt_threshold: float | None = None
    classifier: Logistic | None = None
    measured: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.signal not in get_args(SignalName):
            raise SettingsError(f"signal is {self.signal!r}; valid: {', '.join(get_args(SignalName))}")
        if not isinstance(self.threshold, int | float) or not math.isfinite(self.threshold):
            raise SettingsError(f"threshold is {self.threshold!r}; it must be a number")

    def save(self, folder: Path) -> None:
        """Write it into its folder, whole or not at all."""
        draft = folder / f"{CALIBRATION_FILE}.draft"
        draft.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        draft.replace(folder / CALIBRATION_FILE)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read it; None where there is none. Raises SpecError naming the file and what is wrong."""
        path = folder / CALIBRATION_FILE
        if not path.is_file():
            return None
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            for name in ("learned", "classifier"):
                raw[name] = None if raw[name] is None else Logistic(**raw[name])
            return cls(**raw)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SettingsError) as error:
            raise SpecError(f"{path} cannot be used ({error}); run fathom-export calibrate again") from error
