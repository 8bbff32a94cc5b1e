"""The three models of an LLM: the engine, its tokenizer, and the ensemble of both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from fathom_client import protocol
from fathom_export.decoder import DecoderArchitecture, build_decoder, eos_token_ids
from fathom_export.decoder.checkpoint import Checkpoint
from fathom_export.decoder.shape import decoder_shape
from fathom_export.errors import ParityError
from fathom_export.onnxruntime_options import FLOAT8_OPTION
from fathom_export.repository.earlier_graph import EarlierGraph
from fathom_export.repository.model_config import (
    VERSION,
    Warmup,
    add_cpu_instances,
    add_instances,
    add_step,
    add_tool_calls,
    add_warmup,
    new_config,
    new_ensemble,
    write_config,
)
from fathom_export.repository.tokenizer_files import GENERATE_ADAPTOR, copy_tokenizer, write_tokenizer_model
from fathom_export.spec import DEFAULT_CONTEXT, GenerateSpec, model_names
from fathom_server.engine.runner.base import Runner, StepRow
from fathom_server.engine.runner.cuda_device import cuda_fault
from fathom_server.engine.settings import NATIVE_GRAPH_FILE, EngineLimits, EngineSettings
from fathom_server.sizing.shape import StoredModel
from fathom_server.text.tokenizer import TextTokenizer

FATHOM_BACKEND: Final = "fathom"

_TOKENIZED_IDS: Final = "tokenized_ids"
_WARMUP_TEXT: Final = "Hello, how are you?"
_WARMUP_TOKENS: Final = 4
_LEAST_NATIVE_COSINE: Final = 0.9
"""Of the logits of the two graphs: they round differently, but a fault in either is far below."""
_PROMPT_TENSORS: Final = (protocol.TEXT_INPUT, protocol.MESSAGES, protocol.INPUT_IDS)


def write_generate_models(
    spec: GenerateSpec,
    source: Path,
    staging: Path,
    on_progress: Callable[[int, int], None],
    earlier: EarlierGraph | None = None,
) -> dict[str, float]:
    """Build an LLM's models in the staging folder, of an earlier graph if there is one; returns its check's figures.

    Raises ExportError where the checkpoint cannot be exported.
    """
    engine, tokenizer, ensemble = model_names(spec)
    version = staging / engine / VERSION
    version.mkdir(parents=True)
    copy_tokenizer(source, version)
    text = TextTokenizer.load(version)
    prompt = text.encode(_WARMUP_TEXT) or [0]

    context = int(spec.limits.get("max_context", min(DEFAULT_CONTEXT, DecoderArchitecture.load(source).max_positions)))
    settings = _write_engine(spec, source, version, context, on_progress, earlier)
    check = check_logits(version, settings, prompt) if earlier is None else dict(earlier.check)
    if spec.fast_lane is not None:
        lane = lane_folder(spec, version)
        lane.mkdir()
        copy_tokenizer(source, lane)
        lane_graph = None if earlier is None else replace(earlier, folder=earlier.folder / lane.name)
        lane_settings = _write_engine(spec.fast_lane, source, lane, context, on_progress, lane_graph)
        if earlier is None:
            found = check_logits(lane, lane_settings, prompt)
            check |= {f"{lane.name}_{name}": value for name, value in found.items()}

    config = new_config(engine, FATHOM_BACKEND, protocol.GENERATE_INPUTS, protocol.GENERATE_OUTPUTS)
    config.model_transaction_policy.decoupled = True
    add_tool_calls(config, text.tool_template)
    add_instances(config, spec.serving)
    add_warmup(config, staging / engine, _warmups(prompt, settings.limits))
    write_config(config, staging / engine)

    config = new_config(tokenizer, "python", protocol.TOKENIZE_INPUTS, protocol.TOKENIZE_OUTPUTS)
    add_cpu_instances(config, spec.serving.tokenizer_instances)
    write_config(config, staging / tokenizer)
    write_tokenizer_model(source, staging / tokenizer / VERSION, GENERATE_ADAPTOR)

    write_config(chat_ensemble(ensemble, tokenizer, engine), staging / ensemble)
    return check


def lane_folder(spec: GenerateSpec, version: Path) -> Path:
    """Where a spec's fast lane lies: a folder like the version's own, and below it; the version's where it has none."""
    return version if spec.fast_lane is None else version / spec.fast_lane.precision


def _write_engine(
    spec: GenerateSpec,
    source: Path,
    folder: Path,
    context: int,
    on_progress: Callable[[int, int], None],
    earlier: EarlierGraph | None,
) -> EngineSettings:
    """The graph of one lane and the engine's settings beside it."""
    if earlier is not None:
        earlier.link_into(folder)
        graph = EngineSettings.load(earlier.folder).graph
    else:
        graph = build_decoder(
            source,
            folder,
            dialect=spec.dialect,
            precision=spec.precision,
            quantisation=spec.quantisation,
            max_context=context,
            kv_cache_dtype=spec.engine_limits(context).kv_cache_dtype,
            on_progress=on_progress,
        )
    settings = EngineSettings(
        graph,
        spec.engine_limits(context),
        eos_token_ids(source),
        spec.speculation.engine_settings(),
        "" if spec.fast_lane is None else spec.fast_lane.precision,
        stored_model(spec, source),
    )
    settings.save(folder)
    return settings


def stored_model(spec: GenerateSpec, source: Path) -> StoredModel:
    """What the arithmetic of an export's memory needs; only headers of the source are read."""
    architecture = DecoderArchitecture.load(source)
    quantisation = spec.quantisation
    is_solved = spec.precision == "int4" and quantisation.int4_method == "hqq"
    return StoredModel(decoder_shape(architecture, Checkpoint.open(source)), quantisation.block_size, is_solved)


def check_logits(version: Path, settings: EngineSettings, prompt: list[int]) -> dict[str, float]:
    """Load the graph as the engine does, the stock one and the native one, and compute a prompt and one token more.

    A graph of the cuda dialect is checked where it can run; elsewhere there are no figures.

    Raises ParityError if a logit is infinite or not a number, or where the two graphs are of different minds.
    """
    from fathom_server.engine.runner.load import load_runner, served_graph
    from fathom_server.engine.runner.native import NativeRunner
    from fathom_server.engine.runner.onnx import OnnxRunner
    from fathom_server.engine.runner.slots import SlotRunnerAdapter

    prompt = prompt[: max(1, settings.graph.max_context - 1)]
    if settings.graph.dialect == "cuda":
        if cuda_fault(settings.graph.precision) is not None:
            return {}
        found = _first_logits(load_runner(version, settings), settings, prompt)
        return {"largest_logit": round(float(np.abs(found).max()), 4)}
    # ONNX Runtime fuses Q/DQ pairs into operators that its CPU provider lacks for fp8
    entries = {FLOAT8_OPTION: "1"} if settings.graph.precision == "fp8" else None
    alone = replace(settings, limits=replace(settings.limits, max_batch=1))
    stock = _first_logits(SlotRunnerAdapter(OnnxRunner(version, alone, entries), alone), settings, prompt)
    check = {"largest_logit": round(float(np.abs(stock).max()), 4)}
    if served_graph(version) == NATIVE_GRAPH_FILE:
        native = _first_logits(NativeRunner(version, alone), settings, prompt)
        cosine = float((stock[0] @ native[0]) / max(np.linalg.norm(stock[0]) * np.linalg.norm(native[0]), 1e-30))
        if cosine < _LEAST_NATIVE_COSINE and np.any(stock[0]):
            raise ParityError(
                f"the native graph's logits differ from the stock graph's (cosine {cosine:.4f}); serve the stock one "
                "with FATHOM_NATIVE=0, and report the model"
            )
        check["native_cosine"] = round(cosine, 6)
    return check


def _first_logits(runner: Runner, settings: EngineSettings, prompt: list[int]) -> npt.NDArray[np.float32]:
    """Logits after a prompt, and after the token that they say comes next, if there is room for one."""
    blocks = range(-(-(len(prompt) + 1) // runner.geometry.block_tokens))
    logits = runner.step([StepRow(blocks, 0, prompt, 1)]).copy()
    if len(prompt) < settings.graph.max_context:
        following = runner.step([StepRow(blocks, len(prompt), [int(logits[0].argmax())], 1)])
        logits = np.concatenate([logits, following])
    if not np.isfinite(logits).all():
        raise ParityError(
            "the exported graph gives logits that are infinite or not numbers; try precision fp32, or report the model"
        )
    return logits


def _warmups(prompt: list[int], limits: EngineLimits) -> list[Warmup]:
    """A short prompt, one that fills a prefill chunk, and one of two, whose second finds a past.

    One request each: Triton 2.51 crashes when it warms a decoupled model up with several at once.
    """
    longest = max(1, limits.max_context - _WARMUP_TOKENS)
    answer = np.array([min(_WARMUP_TOKENS, max(1, limits.max_context - 1))], dtype=np.int32)
    chunk = limits.prefill_chunk
    lengths = sorted({min(length, longest) for length in (len(prompt), chunk, 2 * chunk)})
    return [
        Warmup(
            f"prompt_{length}",
            {
                protocol.INPUT_IDS: np.array((prompt * (length // len(prompt) + 1))[:length], dtype=np.int32),
                protocol.MAX_TOKENS: answer,
            },
        )
        for length in lengths
    ]


def chat_ensemble(name: str, tokenizer: str, engine: str) -> object:
    """Tokenizer → engine; every input but the prompt goes straight to the engine."""
    config = new_ensemble(name, protocol.GENERATE_INPUTS, protocol.GENERATE_OUTPUTS)
    add_step(config, tokenizer, {name: name for name in _PROMPT_TENSORS}, {protocol.INPUT_IDS: _TOKENIZED_IDS})
    others = {tensor.name: tensor.name for tensor in protocol.GENERATE_INPUTS if tensor.name not in _PROMPT_TENSORS}
    outputs = {tensor.name: tensor.name for tensor in protocol.GENERATE_OUTPUTS}
    add_step(config, engine, {protocol.INPUT_IDS: _TOKENIZED_IDS, **others}, outputs)
    return config
