"""The three models of a text encoder: the ensemble, its tokenizer, and the encoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from fathom_client import protocol
from fathom_client.protocol import TensorSpec
from fathom_export.encoder import EncoderGraph, SentenceModel, build_encoder
from fathom_export.errors import InvalidContextError
from fathom_export.repository.model_config import (
    VERSION,
    Warmup,
    add_cpu_instances,
    add_dynamic_batching,
    add_parameters,
    add_step,
    add_warmup,
    new_config,
    new_ensemble,
    write_config,
)
from fathom_export.repository.tokenizer_files import EMBED_ADAPTOR, write_tokenizer_model
from fathom_export.spec import EmbedSpec, EncoderLimits, model_names

ONNXRUNTIME_BACKEND: Final = "onnxruntime"

_NUM_INPUT_TOKENS: Final = TensorSpec(protocol.NUM_INPUT_TOKENS, "UINT32", (1,))
_TOKENIZED: Final = (protocol.INPUT_IDS, protocol.ATTENTION_MASK)


def write_embed_models(
    spec: EmbedSpec, source: Path, staging: Path, on_progress: Callable[[int, int], None]
) -> EncoderGraph:
    """Build an encoder's models in the staging folder; raises ExportError where the checkpoint cannot be exported."""
    ensemble, tokenizer, encoder = model_names(spec)
    model = SentenceModel.load(source)
    context = int(spec.limits.get("max_context", model.max_context))
    if context > model.max_context:
        raise InvalidContextError(
            f"max_context is {context}, but {source} takes texts of at most {model.max_context} tokens; lower it"
        )
    limits = spec.encoder_limits(context)
    embedding = TensorSpec(protocol.SENTENCE_EMBEDDING, "FP32", (model.dimension,))

    version = staging / encoder / VERSION
    version.mkdir(parents=True)
    graph = build_encoder(source, version, precision=spec.precision, on_progress=on_progress)
    config = new_config(encoder, ONNXRUNTIME_BACKEND, protocol.ENCODER_INPUTS, [embedding], max_batch=limits.max_batch)
    add_cpu_instances(config, limits.instances)
    add_dynamic_batching(config, limits.max_queue, limits.max_queue_delay_us)
    # names of Triton's own onnxruntime backend; 0 threads is every core
    add_parameters(config, {"intra_op_thread_count": limits.threads, "inter_op_thread_count": 1})
    if spec.precision == "int8":
        # without VNNI instructions, products of u8 and s8 could overflow their 16-bit sums
        add_parameters(config, {"session.x64quantprecision": 1})
    add_warmup(config, staging / encoder, _warmups(limits, model.pad_token_id))
    write_config(config, staging / encoder)

    outputs = (*protocol.ENCODER_INPUTS, _NUM_INPUT_TOKENS)
    config = new_config(tokenizer, "python", protocol.EMBED_INPUTS, outputs, max_batch=limits.max_batch)
    add_cpu_instances(config)
    add_dynamic_batching(config, limits.max_queue)
    add_parameters(config, {"max_context": limits.max_context, "pad_token_id": model.pad_token_id})
    write_config(config, staging / tokenizer)
    write_tokenizer_model(source, staging / tokenizer / VERSION, EMBED_ADAPTOR)

    config = new_ensemble(ensemble, protocol.EMBED_INPUTS, [embedding, _NUM_INPUT_TOKENS], max_batch=limits.max_batch)
    inputs = {tensor.name: tensor.name for tensor in protocol.EMBED_INPUTS}
    add_step(config, tokenizer, inputs, {name: name for name in (*_TOKENIZED, protocol.NUM_INPUT_TOKENS)})
    add_step(config, encoder, {name: name for name in _TOKENIZED}, {embedding.name: embedding.name})
    write_config(config, staging / ensemble)
    return graph


def _warmups(limits: EncoderLimits, pad_token_id: int) -> list[Warmup]:
    """One short text, a full batch of short ones, and one text of the whole length."""
    shapes = (("short_text", 16, 1), ("full_batch", 16, limits.max_batch), ("longest_text", limits.max_context, 1))
    return [
        Warmup(
            name,
            {
                protocol.INPUT_IDS: np.full(min(length, limits.max_context), pad_token_id, dtype=np.int64),
                protocol.ATTENTION_MASK: np.ones(min(length, limits.max_context), dtype=np.int64),
            },
            batch,
        )
        for name, length, batch in shapes
    ]
