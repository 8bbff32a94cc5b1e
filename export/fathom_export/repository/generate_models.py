"""The three models of an LLM: the engine, its tokenizer, and the ensemble of both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from fathom_client import protocol
from fathom_export.decoder import DecoderArchitecture, build_decoder, eos_token_ids
from fathom_export.errors import ParityError
from fathom_export.repository.model_config import (
    VERSION,
    Warmup,
    add_cpu_instances,
    add_instances,
    add_step,
    add_warmup,
    new_config,
    new_ensemble,
    write_config,
)
from fathom_export.repository.tokenizer_files import GENERATE_ADAPTOR, copy_tokenizer, write_tokenizer_model
from fathom_export.spec import DEFAULT_CONTEXT, GenerateSpec, model_names
from fathom_server.engine.settings import EngineLimits, EngineSettings
from fathom_server.text.tokenizer import TextTokenizer

FATHOM_BACKEND: Final = "fathom"

_TOKENIZED_IDS: Final = "tokenized_ids"
_WARMUP_TEXT: Final = "Hello, how are you?"
_WARMUP_TOKENS: Final = 4
_PROMPT_TENSORS: Final = (protocol.TEXT_INPUT, protocol.MESSAGES, protocol.INPUT_IDS)


def write_generate_models(
    spec: GenerateSpec, source: Path, staging: Path, on_progress: Callable[[int, int], None]
) -> dict[str, float]:
    """Build an LLM's models in the staging folder; returns the figures of the graph's check.

    Raises ExportError where the checkpoint cannot be exported.
    """
    engine, tokenizer, ensemble = model_names(spec)
    version = staging / engine / VERSION
    version.mkdir(parents=True)
    copy_tokenizer(source, version)
    prompt = TextTokenizer.load(version).encode(_WARMUP_TEXT) or [0]

    context = int(spec.limits.get("max_context", min(DEFAULT_CONTEXT, DecoderArchitecture.load(source).max_positions)))
    graph = build_decoder(
        source,
        version,
        dialect=spec.dialect,
        precision=spec.precision,
        quantisation=spec.quantisation,
        max_context=context,
        on_progress=on_progress,
    )
    settings = EngineSettings(graph, spec.engine_limits(context), eos_token_ids(source))
    settings.save(version)
    check = check_logits(version, settings, prompt)

    config = new_config(engine, FATHOM_BACKEND, protocol.GENERATE_INPUTS, protocol.GENERATE_OUTPUTS)
    config.model_transaction_policy.decoupled = True
    add_instances(config, spec.serving)
    add_warmup(config, staging / engine, _warmups(prompt, settings.limits))
    write_config(config, staging / engine)

    config = new_config(tokenizer, "python", protocol.TOKENIZE_INPUTS, protocol.TOKENIZE_OUTPUTS)
    add_cpu_instances(config, spec.serving.tokenizer_instances)
    write_config(config, staging / tokenizer)
    write_tokenizer_model(source, staging / tokenizer / VERSION, GENERATE_ADAPTOR)

    write_config(_ensemble(ensemble, tokenizer, engine), staging / ensemble)
    return check


def check_logits(version: Path, settings: EngineSettings, prompt: list[int]) -> dict[str, float]:
    """Load the graph as the engine does and compute a short prompt and one token more.

    Raises ParityError if a logit is infinite or not a number.
    """
    from fathom_server.engine.runner.onnx import OnnxRunner

    prompt = prompt[: max(1, settings.graph.max_context - 1)]
    # ONNX Runtime fuses Q/DQ pairs into operators that its CPU provider lacks for fp8
    entries = {"session.disable_quant_qdq": "1"} if settings.graph.precision == "fp8" else None
    runner = OnnxRunner(version, replace(settings, limits=replace(settings.limits, max_batch=1)), entries)
    first = runner.prefill(0, 0, np.array(prompt, dtype=np.int64)).copy()
    steps = [first]
    if len(prompt) < settings.graph.max_context:
        steps.append(runner.decode(np.array([len(prompt)], dtype=np.int32), first.argmax(axis=1).astype(np.int64)))
    for step in steps:
        if not np.isfinite(step).all():
            raise ParityError(
                "the exported graph gives logits that are infinite or not numbers; try precision fp32, or report the "
                "model"
            )
    return {"largest_logit": round(float(max(np.abs(step).max() for step in steps)), 4)}


def _warmups(prompt: list[int], limits: EngineLimits) -> list[Warmup]:
    """A short prompt, one that fills a prefill chunk, and the longest, whose later chunks find a past.

    One request each: Triton 2.51 crashes when it warms a decoupled model up with several at once.
    """
    longest = max(1, limits.max_context - _WARMUP_TOKENS)
    answer = np.array([min(_WARMUP_TOKENS, max(1, limits.max_context - 1))], dtype=np.int32)
    lengths = sorted({min(length, longest) for length in (len(prompt), limits.prefill_chunk, longest)})
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


def _ensemble(name: str, tokenizer: str, engine: str) -> object:
    """Tokenizer → engine; every input but the prompt goes straight to the engine."""
    config = new_ensemble(name, protocol.GENERATE_INPUTS, protocol.GENERATE_OUTPUTS)
    add_step(config, tokenizer, {name: name for name in _PROMPT_TENSORS}, {protocol.INPUT_IDS: _TOKENIZED_IDS})
    others = {tensor.name: tensor.name for tensor in protocol.GENERATE_INPUTS if tensor.name not in _PROMPT_TENSORS}
    outputs = {tensor.name: tensor.name for tensor in protocol.GENERATE_OUTPUTS}
    add_step(config, engine, {protocol.INPUT_IDS: _TOKENIZED_IDS, **others}, outputs)
    return config
