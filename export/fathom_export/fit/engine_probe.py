"""What the engine takes for a step beside its products and attention: measured on decoders of next to no weights."""

import json
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np

from fathom_export.decoder.build import build_decoder
from fathom_export.errors import FitError
from fathom_server.engine.engine import Engine
from fathom_server.engine.request import Piece
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineLimits, EngineSettings
from fathom_server.errors import RequestError
from fathom_server.text.tokenizer import TextTokenizer

BATCH: Final = 16
_TOKENS: Final = 96
_VOCABULARY: Final = 4096
_HIDDEN: Final = 64
_SHALLOW: Final = 2
_DEEP: Final = 18
_NODES_PER_LAYER: Final = 5


@dataclass(frozen=True, slots=True)
class EngineCosts:
    """Seconds: of an operator of almost no work, of a step, and of each sequence in it."""

    node_s: float
    step_s: float
    row_s: float


def engine_costs(precision: Literal["fp32", "int8"]) -> EngineCosts:
    """Measure them in the stock graph (fp32) or the native one (int8)."""
    with tempfile.TemporaryDirectory(prefix="fathom-calibrate-") as work:
        shallow = _model(Path(work) / "shallow", _SHALLOW, precision)
        deep = _model(Path(work) / "deep", _DEEP, precision)
        one, many = (_step_s(shallow, batch) for batch in (1, BATCH))
        deep_one = _step_s(deep, 1)
    node_s = max(0.0, (deep_one - one) / ((_DEEP - _SHALLOW) * _NODES_PER_LAYER))
    step_s = max(0.0, one - (_SHALLOW * _NODES_PER_LAYER + 1) * node_s)
    row_s = max(0.0, (many - one) / (BATCH - 1))
    return EngineCosts(node_s, step_s - min(step_s, row_s), row_s)


@dataclass(slots=True)
class _Arrivals:
    """When tokens of one answer came; a sink of the engine."""

    first_s: float = 0.0
    last_s: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    def on_piece(self, piece: Piece) -> None:
        now = time.perf_counter()
        self.first_s = self.first_s or now
        self.last_s = now
        if piece.is_last:
            self.ended.set()

    def on_error(self, error: RequestError) -> None:
        self.ended.set()


def _step_s(folder: Path, batch: int) -> float:
    """Seconds between two tokens of every answer, the median of a few rounds."""
    settings = EngineSettings.load(folder)
    engine = Engine(load_runner(folder, settings), settings, TextTokenizer.load(folder))
    engine.start()
    sampling = SamplingParameters(max_tokens=_TOKENS, ignore_eos=True)
    times: list[float] = []
    try:
        for _ in range(5):
            sinks = [_Arrivals() for _ in range(batch)]
            for number, sink in enumerate(sinks):
                engine.submit(str(number), [number % _VOCABULARY], sampling, sink)
            for sink in sinks:
                sink.ended.wait()
            steps = [(sink.last_s - sink.first_s) / (_TOKENS - 1) for sink in sinks]
            if min(steps) <= 0:
                raise FitError("the engine failed on the probe's model; its log says why")
            times.append(float(np.median(steps)))
    finally:
        engine.stop()
    return float(np.median(times))


def _model(folder: Path, layers: int, precision: Literal["fp32", "int8"]) -> Path:
    """A decoder of random weights, exported as any other."""
    source = folder / "source"
    source.mkdir(parents=True)
    _write_checkpoint(source, layers)
    version = folder / "1"
    version.mkdir()
    limits = EngineLimits(max_batch=BATCH, max_context=256)
    graph = build_decoder(source, version, dialect="cpu", precision=precision, max_context=limits.max_context)
    EngineSettings(graph, limits, (0,)).save(version)
    (version / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    return version


def _write_checkpoint(folder: Path, layers: int) -> None:
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models

    random = np.random.default_rng(0)

    def matrix(rows: int, columns: int = _HIDDEN) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return random.standard_normal((rows, columns), np.float32) * np.float32(0.02)

    ones = np.ones(_HIDDEN, np.float32)
    tensors = {"model.embed_tokens.weight": matrix(_VOCABULARY), "model.norm.weight": ones}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        parts: Sequence[str] = (
            "self_attn.q",
            "self_attn.k",
            "self_attn.v",
            "self_attn.o",
            "mlp.gate",
            "mlp.up",
            "mlp.down",
        )
        tensors |= {f"{name}.{part}_proj.weight": matrix(_HIDDEN) for part in parts}
        tensors |= {f"{name}.{norm}_layernorm.weight": ones for norm in ("input", "post_attention")}
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": _HIDDEN // 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "vocab_size": _VOCABULARY,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    vocabulary = {f"t{number} ": number for number in range(_VOCABULARY)}
    Tokenizer(models.WordLevel(vocabulary, "t0 ")).save(str(folder / "tokenizer.json"))
