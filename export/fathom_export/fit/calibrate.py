"""``fathom-fit calibrate``: measure this machine with the kernels that serve."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

from fathom_export.fit.calibration import Calibration, machine_name
from fathom_export.fit.engine_probe import engine_costs
from fathom_export.fit.probes import Effort, attention_rates, product_rates, read_bytes_per_s, threads
from fathom_server.sizing.roofline import Processor
from fathom_server.sizing.shape import Precision

PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "int8", "int4")
KV_DTYPES: Final = ("float32", "int8")
INT4_BLOCK: Final = 128
"""The block of the latency profile, and of the probe."""


def calibrate(effort: Effort, say: Callable[[str], None]) -> Calibration:
    """Measure; ``say`` is told what is measured next. Raises FitError where Fathom's operators are not built."""
    say("reading memory")
    bandwidth = read_bytes_per_s(effort)
    products = {}
    for precision in PRECISIONS:
        say(f"products in {precision}")
        products[str(precision)] = product_rates(precision, INT4_BLOCK, effort)
    attention = {}
    for kv_dtype in KV_DTYPES:
        say(f"attention over a cache in {kv_dtype}")
        attention[kv_dtype] = attention_rates(kv_dtype, effort)
    say("the engine's own steps")
    runners: tuple[tuple[str, Literal["fp32", "int8"]], ...] = (("native", "int8"), ("stock", "fp32"))
    costs = {runner: engine_costs(precision) for runner, precision in runners}
    processor = Processor(
        name=machine_name(),
        bandwidth_bytes_per_s=bandwidth,
        products=products,
        attention=attention,
        node_s={runner: cost.node_s for runner, cost in costs.items()},
        step_s=costs["native"].step_s,
        row_s=costs["native"].row_s,
    )
    return Calibration(machine_name(), threads(), datetime.now(UTC).isoformat(timespec="seconds"), processor)
