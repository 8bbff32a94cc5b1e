"""From a portable float32 graph that is not yet saved to the precision and sparsity that were asked for."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fathom_export.quantise.activations import ActivationStatistics
from fathom_export.spec.quantisation import Quantisation

if TYPE_CHECKING:
    import onnx_ir as ir

    from fathom_export.quantise.calibration_text import CalibrationTokens
    from fathom_export.quantise.float32_graph import Float32Graph

REPORT_FILE: Final = "quantisation.json"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found out about a model before its graph is changed.

    ``input_norms`` is for Wanda, None without it. ``scales`` has the fp8 scale of each activation, ``skipped`` the
    layers that stay in fp16; both are empty unless the precision is fp8. ``report`` is what the passport tells of it.
    """

    input_norms: Mapping[str, npt.NDArray[np.float32]] | None
    scales: Mapping[str, np.float32]
    skipped: tuple[str, ...]
    report: Mapping[str, Any]


def calibrate(source: Path, beside: Path, precision: str, quantisation: Quantisation, max_context: int) -> Calibration:
    """Look at the activations of a checkpoint's unquantised graph, where the precision or the sparsity needs it.

    Graphs are built in folders of their own under ``beside`` and removed. fp8 is calibrated on the graph as it is after
    pruning. Raises SpecError for a text that cannot be used, TextError for a tokenizer.
    """
    from fathom_export.quantise.float32_graph import float32_graph

    if not quantisation.needs_calibration(precision):
        return Calibration(None, {}, (), {})
    report: dict[str, Any] = {"settings": asdict(quantisation)}
    norms: dict[str, npt.NDArray[np.float32]] | None = None
    scales: dict[str, np.float32] = {}
    skipped: tuple[str, ...] = ()
    if quantisation.sparsity != "none" and quantisation.sparsity_method == "wanda":
        with float32_graph(source, beside, max_context) as graph:
            statistics = _statistics(graph, source, quantisation, report)
            norms = {name: seen.norms() for name, seen in statistics.items()}
    if precision == "fp8":
        only_sparsity = replace(
            Quantisation(), sparsity=quantisation.sparsity, sparsity_method=quantisation.sparsity_method
        )
        if only_sparsity.needs_calibration("fp32"):
            only_sparsity = replace(only_sparsity, calibration_text=quantisation.calibration_text)
        with float32_graph(source, beside, max_context, only_sparsity) as graph:
            scales, skipped = _fp8_choices(graph, source, quantisation, report)
    return Calibration(norms, scales, skipped, report)


def lower(model: "ir.Model", precision: str, quantisation: Quantisation, calibration: Calibration) -> None:
    """Prune and convert a portable float32 graph in place; weights change as they are written."""
    from fathom_export.quantise.float16 import to_float16
    from fathom_export.quantise.fp8 import insert_fp8
    from fathom_export.quantise.sparsity import prune

    if quantisation.sparsity != "none":
        prune(model.graph, calibration.input_norms)
    if precision == "fp8":
        insert_fp8(model.graph, calibration.scales, calibration.skipped)
    if precision in ("fp16", "fp8"):
        to_float16(model)


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write what was calibrated, on what, and what was left out beside the weights, unless nothing was."""
    if not report:
        return
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def read_report(folder: Path) -> dict[str, Any]:
    """What ``write_report`` wrote into a folder; empty where nothing was quantised by calibration."""
    path = folder / REPORT_FILE
    if not path.exists():
        return {}
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def _fp8_choices(
    graph: "Float32Graph", source: Path, quantisation: Quantisation, report: dict[str, Any]
) -> tuple[dict[str, np.float32], tuple[str, ...]]:
    from fathom_export.quantise.calibration import choose_skipped, sensitivity
    from fathom_export.quantise.fp8 import activation_scale

    tokens = _tokens(graph, source, quantisation)
    statistics = _statistics(graph, source, quantisation, report, tokens)
    scales = {name: activation_scale(seen, quantisation.calibration_method) for name, seen in statistics.items()}
    report["fp8"] = {
        "largest_activations": {name: seen.largest for name, seen in statistics.items()},
        "activation_scales": {name: float(scale) for name, scale in scales.items()},
    }
    if quantisation.fp8_skip_budget == 0:
        return scales, ()
    chosen = choose_skipped(graph.layers, sensitivity(graph, tokens, scales), quantisation.fp8_skip_budget)
    report["fp8"] |= {
        "harm_nats_a_token": dict(chosen.harm),
        "layers_in_fp16": list(chosen.names),
        "share_in_fp16": chosen.share,
    }
    return scales, chosen.names


def _statistics(
    graph: "Float32Graph",
    source: Path,
    quantisation: Quantisation,
    report: dict[str, Any],
    tokens: "CalibrationTokens | None" = None,
) -> dict[str, ActivationStatistics]:
    from fathom_export.quantise.calibration import gather_statistics

    tokens = _tokens(graph, source, quantisation) if tokens is None else tokens
    report["calibration"] = {"text": tokens.kind, "sequences": len(tokens.sequences), "tokens": tokens.count}
    return gather_statistics(graph, tokens.sequences)


def _tokens(graph: "Float32Graph", source: Path, quantisation: Quantisation) -> "CalibrationTokens":
    from fathom_export.quantise.calibration_text import read_text, write_text

    if quantisation.calibration_text:
        return read_text(Path(quantisation.calibration_text), source, graph.length)
    return write_text(graph, _first_token(source), graph.length)


def _first_token(source: Path) -> int | None:
    """The token that begins the model's texts, or None if it has none."""
    from fathom_export.decoder.architecture import CONFIG_FILE
    from fathom_export.decoder.config_values import read_json_object

    token = read_json_object(source / CONFIG_FILE).get("bos_token_id")
    return token if type(token) is int and token >= 0 else None
