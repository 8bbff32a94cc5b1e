"""What ``fathom-fit calibrate`` found out about a machine, in a file."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from fathom_export.errors import FitError
from fathom_server.sizing.roofline import AttentionRates, Curve, Processor, ProductRates

SCHEMA: Final = "fathom-calibration/1"
_CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Calibration:
    """A machine's rates, and of which machine, with how many threads, and when (ISO 8601, UTC)."""

    machine: str
    threads: int
    created: str
    processor: Processor

    def save(self, path: Path) -> None:
        """Write it; raises FitError where the file cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise FitError(f"{path} cannot be written ({error.strerror}); give another place as --to") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it; raises FitError naming the file and the remedy."""
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if raw["schema"] != SCHEMA:
                raise ValueError(f"its schema is {raw['schema']!r}, not {SCHEMA!r}")
            return cls(str(raw["machine"]), int(raw["threads"]), str(raw["created"]), _processor(raw["processor"]))
        except FileNotFoundError as error:
            raise FitError(f"{path} does not exist; make it with: fathom-fit calibrate --to {path}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise FitError(
                f"{path} is no calibration that can be read ({error}); make it again with fathom-fit calibrate"
            ) from error


def default_file() -> Path:
    """Where this user's calibration of this machine lies: a file a machine, since home directories are shared."""
    cache = Path(
        os.environ.get("FATHOM_CACHE", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "fathom")
    )
    return cache / "fit" / f"{platform.node() or 'machine'}.json"


def machine_name() -> str:
    """The name of the processor here."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _processor(raw: dict[str, Any]) -> Processor:
    products = {
        name: ProductRates(_numbers(rates["working_sets"]), tuple(_curve(curve) for curve in rates["curves"]))
        for name, rates in raw["products"].items()
    }
    for name, rates in products.items():
        if not rates.curves or len(rates.curves) != len(rates.working_sets):
            raise ValueError(f"products.{name} has {len(rates.curves)} curves for {len(rates.working_sets)} sets")
    numbers = {name: _positive(raw[name]) for name in ("bandwidth_bytes_per_s", "step_s", "row_s")}
    return Processor(
        name=str(raw["name"]),
        products=products,
        attention={
            name: AttentionRates(*(_positive(rates[part]) for part in ("decode_byte", "decode", "prefill")))
            for name, rates in raw["attention"].items()
        },
        node_s={name: _positive(value) for name, value in raw["node_s"].items()},
        **numbers,
    )


def _curve(raw: dict[str, Any]) -> Curve:
    at, seconds = _numbers(raw["at"]), _numbers(raw["seconds"])
    if not at or len(at) != len(seconds) or list(at) != sorted(set(at)):
        raise ValueError("a curve's numbers are not ascending, or not as many as its seconds")
    return Curve(at, seconds)


def _numbers(values: list[Any]) -> tuple[float, ...]:
    return tuple(_positive(value) for value in values)


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{value!r} is no time or rate")
    return number
