"""The probes of ``fathom-fit calibrate`` run the very kernels that serve."""

from pathlib import Path

import numpy as np
import pytest

from fathom_export.errors import FitError
from fathom_export.fit import probes
from fathom_export.fit.engine_probe import engine_costs
from fathom_export.fit.probes import Effort, ProductProbe, attention_rates, product_rates
from fathom_server.native.library import SWITCH, library_path

ONCE = Effort(least=1, budget_s=0.0)

pytestmark = pytest.mark.skipif(
    library_path() is None, reason="Fathom's operators are not built here (no C++ compiler)"
)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_products_are_timed_over_as_many_weights_as_fill_the_working_set(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every working set and number of rows has a time; the session holds that many matrices."""
    monkeypatch.setattr(probes, "WORKING_SETS", (3 << 20, 6 << 20))
    monkeypatch.setattr(probes, "ROWS", (1, 4))
    rates = product_rates(precision, 128, ONCE)  # type: ignore[arg-type]
    assert rates.working_sets == (3 << 20, 6 << 20)
    assert all(curve.at == (1.0, 4.0) and min(curve.seconds) > 0 for curve in rates.curves)
    probe = ProductProbe.of(precision, 6 << 20, 128)  # type: ignore[arg-type]
    assert (6 << 20) * 0.6 < probe.size_bytes <= 6 << 20
    (output,) = probe.run(2)()  # type: ignore[misc]
    assert output.shape == (2, 768)
    assert np.isfinite(output).all()


@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
def test_attention_has_a_time_for_bytes_operations_and_chunks(kv_dtype: str) -> None:
    """Nothing is negative, and a chunk's operations take some time."""
    rates = attention_rates(kv_dtype, ONCE)
    assert min(rates.decode_byte, rates.decode) >= 0
    assert rates.decode_byte + rates.decode > 0
    assert rates.prefill > 0


def test_the_engine_itself_is_timed_on_a_model_of_nothing() -> None:
    """The real engine generates; what it takes for steps, sequences and operators is not negative."""
    costs = engine_costs("int8")
    assert min(costs.node_s, costs.step_s, costs.row_s) >= 0
    assert max(costs.node_s, costs.step_s, costs.row_s) > 0


def test_without_the_operators_there_is_nothing_to_calibrate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Turned off, they are named, and the way to build them."""
    monkeypatch.setenv(SWITCH, "0")
    with pytest.raises(FitError, match="not built here or turned off"):
        ProductProbe.of("int8", 1, 128)
