"""What an encoder's activations look like over a user's text, for fp8: scales, and the layers that stay in fp16."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fathom_client.protocol import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS
from fathom_export.errors import SpecError
from fathom_export.onnxruntime_options import FLOAT8_OPTION
from fathom_export.quantise.calibration import choose_skipped, gather_statistics
from fathom_export.quantise.calibration_text import FEWEST_TOKENS, TOKENS, read_beginning
from fathom_export.quantise.float32_graph import SCALE_SUFFIX, SWITCH_SUFFIX, Layer, Layers, fp8_layer, open_up
from fathom_export.quantise.fp8 import activation_scale
from fathom_export.spec.quantisation import EncoderQuantisation

if TYPE_CHECKING:
    from fathom_export.encoder.form import EncoderForm
    from fathom_server.text.tokenizer import TextTokenizer

Inputs = Mapping[str, npt.NDArray[np.int64]]

_LONGEST: Final = 256
"""Tokens of a text that are looked at, at most."""
_SENSITIVITY_TEXTS: Final = 16


@dataclass(frozen=True, slots=True)
class EncoderCalibration:
    """The fp8 scale of each activation by its name, the layers that stay in fp16, and what the passport tells of it."""

    scales: Mapping[str, np.float32]
    skipped: tuple[str, ...]
    report: Mapping[str, Any]


class Float32Encoder:
    """A float32 encoder graph whose every product gives its inputs out, and can be computed in fp8 instead."""

    def __init__(self, graph: Path, opened: Path, output: str) -> None:
        import onnxruntime as ort

        self._output = output
        layers: Layers = open_up(graph, opened)
        self.layers, self._weights = layers.layers, layers.weights
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(FLOAT8_OPTION, "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # packed copies of the weights would take as much memory as the model has
        options.add_session_config_entry("session.disable_prepacking", "1")
        self._session = ort.InferenceSession(str(opened), options, providers=["CPUExecutionProvider"])
        self._idle: dict[str, npt.NDArray[Any]] = {}
        for layer in self.layers:
            self._idle[layer.name + SWITCH_SUFFIX] = np.array(False)
            self._idle[layer.name + SCALE_SUFFIX] = np.array(1, np.float32)

    def activations(self, inputs: Inputs) -> dict[str, npt.NDArray[np.float32]]:
        """The inputs of every product for a batch, by their names."""
        names = sorted({layer.activations for layer in self.layers})
        return dict(zip(names, self._session.run(names, {**inputs, **self._idle}), strict=True))

    def outputs(
        self, inputs: Inputs, fp8: Mapping[str, np.float32] | None = None, layer: Layer | None = None
    ) -> npt.NDArray[np.float32]:
        """What the encoder says of a batch, one layer in fp8 if it is given with the activations' scales."""
        feeds: dict[str, npt.NDArray[Any]] = {**inputs, **self._idle}
        if layer is not None and fp8 is not None:
            feeds |= fp8_layer(layer, self._weights[layer.matrix], fp8)
        found: npt.NDArray[np.float32] = self._session.run([self._output], feeds)[0]
        return found


def calibrate(
    graph: Path, form: "EncoderForm", tokenizer: "TextTokenizer", quantisation: EncoderQuantisation
) -> EncoderCalibration:
    """Look at a float32 graph's activations over the calibration text; the graph stays as it is.

    Raises SpecError for a text that cannot be read or holds too little.
    """
    path = Path(quantisation.calibration_text)
    samples = read_samples(path, form, tokenizer)
    with float32_encoder(graph, form.output.name) as encoder:
        statistics = gather_statistics(encoder, samples)
        scales = {name: activation_scale(seen, quantisation.calibration_method) for name, seen in statistics.items()}
        settings = {**asdict(quantisation), "calibration_text": path.name}
        tokens = sum(sample[INPUT_IDS].size for sample in samples)
        report: dict[str, Any] = {
            "settings": settings,
            "calibration": {"text": "user", "sequences": len(samples), "tokens": tokens},
            "fp8": {
                "largest_activations": {name: seen.largest for name, seen in statistics.items()},
                "activation_scales": {name: float(scale) for name, scale in scales.items()},
            },
        }
        if quantisation.fp8_skip_budget == 0:
            return EncoderCalibration(scales, (), report)
        harm = sensitivity(encoder, samples[:_SENSITIVITY_TEXTS], scales)
        chosen = choose_skipped(encoder.layers, harm, quantisation.fp8_skip_budget)
    report["fp8"] |= {
        "harm_relative_error": dict(harm),
        "layers_in_fp16": list(chosen.names),
        "share_in_fp16": chosen.share,
    }
    return EncoderCalibration(scales, chosen.names, report)


def read_samples(path: Path, form: "EncoderForm", tokenizer: "TextTokenizer") -> list[Inputs]:
    """The lines of a file, each a batch of its own, up to ``TOKENS`` tokens; a line and the next where pairs are taken.

    Raises SpecError if the file cannot be read or holds too few tokens.
    """
    where = f"quantisation.calibration_text {path}"
    lines = [line.strip() for line in read_beginning(path, where).splitlines() if line.strip()]
    texts = list(zip(lines, [*lines[1:], *lines[:1]], strict=True)) if form.takes_pairs else lines
    longest = min(form.architecture.max_context, _LONGEST)
    samples: list[Inputs] = []
    count = 0
    for text in texts:
        ids, types = tokenizer.encode_rows([text])[0]
        ids, types = ids[:longest], types[:longest]
        if count + len(ids) > TOKENS:
            break
        count += len(ids)
        arrays = {INPUT_IDS: [ids], ATTENTION_MASK: [[1] * len(ids)], TOKEN_TYPE_IDS: [types]}
        samples.append({name: np.array(arrays[name], np.int64) for name in form.inputs})
    if count < FEWEST_TOKENS:
        raise SpecError(f"{where} holds {count} tokens; give it at least {FEWEST_TOKENS} of text like the model's use")
    return samples


def sensitivity(
    encoder: Float32Encoder, samples: Sequence[Inputs], scales: Mapping[str, np.float32]
) -> dict[str, float]:
    """How much each layer alone in fp8 changes what the encoder says: the mean relative error of its output."""
    references = [encoder.outputs(sample) for sample in samples]
    return {
        layer.name: float(
            np.mean(
                [
                    np.linalg.norm(encoder.outputs(sample, scales, layer) - reference)
                    / max(float(np.linalg.norm(reference)), 1e-30)
                    for sample, reference in zip(samples, references, strict=True)
                ]
            )
        )
        for layer in encoder.layers
    }


@contextmanager
def float32_encoder(graph: Path, output: str) -> Iterator[Float32Encoder]:
    """A graph opened up in a file beside it, which is removed at the end."""
    opened = graph.with_name(f"calibration-{graph.name}")
    try:
        yield Float32Encoder(graph, opened, output)
    finally:
        opened.unlink(missing_ok=True)
