"""What fp8 and Wanda must know of a model's activations, and which layers hurt most in fp8."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from fathom_export.quantise.activations import ActivationStatistics
from fathom_export.quantise.calibration_text import CalibrationTokens
from fathom_export.quantise.float32_graph import Float32Graph, Layer

Sample = TypeVar("Sample", contravariant=True)

SENSITIVITY_SEQUENCES: Final = 2
"""Calibration sequences over which each layer is tried in fp8."""


@dataclass(frozen=True, slots=True)
class SkippedLayers:
    """Names of the layers that stay in fp16, their share of the weights, and the harm of every layer."""

    names: tuple[str, ...]
    harm: Mapping[str, float]
    share: float


class OpenGraph(Protocol[Sample]):
    """A graph whose products' inputs can be seen."""

    @property
    def layers(self) -> Sequence[Layer]:
        """Its products."""
        ...

    def activations(self, sample: Sample, /) -> Mapping[str, npt.NDArray[np.float32]]:
        """The inputs of every product for one sample, by their names."""
        ...


def gather_statistics(graph: OpenGraph[Sample], samples: Iterable[Sample]) -> dict[str, ActivationStatistics]:
    """Statistics of every product's input over the calibration text, by the input's name."""
    statistics: dict[str, ActivationStatistics] = {
        layer.activations: ActivationStatistics(layer.shape[0]) for layer in graph.layers
    }
    for sample in samples:
        for name, values in graph.activations(sample).items():
            statistics[name].add(values)
    return statistics


def sensitivity(graph: Float32Graph, tokens: CalibrationTokens, scales: Mapping[str, np.float32]) -> dict[str, float]:
    """How much each layer alone in fp8 changes what the model says.

    It is the mean Kullback-Leibler divergence, in nats a token, of the next token's distribution from that of the
    unquantised graph.
    """
    sequences = tokens.sequences[:SENSITIVITY_SEQUENCES]
    references = [_log_softmax(graph.logits(sequence)) for sequence in sequences]
    harm = {}
    for layer in graph.layers:
        divergences = [
            _divergence(reference, _log_softmax(graph.logits(sequence, scales, layer)))
            for sequence, reference in zip(sequences, references, strict=True)
        ]
        harm[layer.name] = float(np.concatenate(divergences).mean())
    return harm


def choose_skipped(layers: Sequence[Layer], harm: Mapping[str, float], budget: float) -> SkippedLayers:
    """The layers to leave in fp16: most harm a weight first, each if it still fits into the budget.

    ``budget`` is the share of the weights of all products that the layers left out may hold.
    """
    total = sum(layer.weights for layer in layers)
    left = budget * total
    skipped = []
    for layer in sorted(layers, key=lambda layer: harm[layer.name] / layer.weights, reverse=True):
        if layer.weights <= left and harm[layer.name] > 0:
            left -= layer.weights
            skipped.append(layer.name)
    weights = sum(layer.weights for layer in layers if layer.name in skipped)
    return SkippedLayers(tuple(skipped), harm, weights / total)


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _divergence(reference: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray((np.exp(reference) * (reference - other)).sum(axis=-1))
