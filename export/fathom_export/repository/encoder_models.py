"""The three models of a text encoder, whatever its task: the ensemble, its tokenizer, and the encoder."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from fathom_client import protocol
from fathom_client.protocol import TensorSpec
from fathom_export.encoder import ClassifierModel, EncoderForm, EncoderGraph, EncoderTask, SentenceModel, build_encoder
from fathom_export.encoder.tokenizer import write_lowering
from fathom_export.errors import InvalidContextError
from fathom_export.onnxruntime_options import FLOAT8_OPTION
from fathom_export.repository.earlier_graph import EarlierGraph
from fathom_export.repository.model_config import (
    VERSION,
    Warmup,
    add_cpu_instances,
    add_dynamic_batching,
    add_instances,
    add_parameters,
    add_step,
    add_warmup,
    new_config,
    new_ensemble,
    write_config,
)
from fathom_export.repository.staging import FP32_COPY
from fathom_export.repository.tokenizer_files import ENCODER_ADAPTOR, write_tokenizer_model
from fathom_export.spec import EncoderLimits, EncoderSpec, model_names

ONNXRUNTIME_BACKEND: Final = "onnxruntime"
LABELS_FILE: Final = "labels.txt"

_SHORT_TEXT: Final = 16
"""Tokens: the step in which the tokenizer rounds lengths up."""

_INPUTS: Final[Mapping[EncoderTask, Sequence[TensorSpec]]] = {
    "embed": protocol.EMBED_INPUTS,
    "rerank": protocol.RERANK_INPUTS,
    "classify": protocol.CLASSIFY_INPUTS,
}
_NUM_INPUT_TOKENS: Final = TensorSpec(protocol.NUM_INPUT_TOKENS, "UINT32", (1,))


def write_encoder_models(
    spec: EncoderSpec,
    source: Path,
    staging: Path,
    on_progress: Callable[[int, int], None],
    earlier: EarlierGraph | None = None,
) -> EncoderGraph:
    """Build an encoder's models in the staging folder, of an earlier graph if there is one.

    Raises ExportError where the checkpoint cannot be exported.
    """
    ensemble, tokenizer, encoder = model_names(spec)
    form = EncoderForm.load(source, spec.task)
    longest = form.architecture.max_context
    context = int(spec.limits.get("max_context", longest))
    if context > longest:
        raise InvalidContextError(
            f"max_context is {context}, but {source} takes texts of at most {longest} tokens; lower it"
        )
    limits = spec.encoder_limits(context)
    version = staging / encoder / VERSION
    version.mkdir(parents=True)
    if earlier is not None:
        earlier.link_into(version)
        graph = EncoderGraph(form, dict(earlier.opsets), dict(earlier.check))
    else:
        graph = build_encoder(
            source,
            version,
            precision=spec.precision,
            task=spec.task,
            quantisation=spec.quantisation,
            fp32_copy=staging / FP32_COPY,
            on_progress=on_progress,
        )
    tokenized = [TensorSpec(name, "INT64", (protocol.VARIABLE,)) for name in form.inputs]
    constants = _constants(form)

    config = new_config(encoder, ONNXRUNTIME_BACKEND, tokenized, [form.output], max_batch=limits.max_batch)
    add_instances(config, spec.serving, limits.instances)
    add_dynamic_batching(
        config,
        limits.max_queue_delay_us,
        preferred_batch_sizes=spec.serving.preferred_batch_sizes,
        queue_timeout_ms=spec.serving.queue_timeout_ms,
    )
    # names of Triton's own onnxruntime backend; 0 threads is every core
    add_parameters(config, {"intra_op_thread_count": limits.threads, "inter_op_thread_count": 1})
    # threads that spin between operators take the cores from the tokenizer and Triton: a fifth less time a text without
    add_parameters(config, {"session.intra_op.allow_spinning": 0})
    if spec.precision == "int8":
        # without VNNI instructions, products of u8 and s8 could overflow their 16-bit sums; with them our own backend
        # leaves the guard out, for it halves the speed of such products
        add_parameters(config, {"session.x64quantprecision": 1})
    if spec.precision == "fp8":
        # ONNX Runtime's CPU provider computes fp8 by rounding and multiplying in float, if it fuses nothing
        add_parameters(config, {FLOAT8_OPTION: 1})
    add_warmup(config, staging / encoder, _warmups(limits, form, spec.serving.preferred_batch_sizes))
    write_config(config, staging / encoder)

    outputs = (*tokenized, *constants, _NUM_INPUT_TOKENS)
    config = new_config(tokenizer, "python", _INPUTS[spec.task], outputs, max_batch=limits.max_batch)
    add_cpu_instances(config, spec.serving.tokenizer_instances)
    add_dynamic_batching(config)
    add_parameters(config, {"max_context": limits.max_context, "pad_token_id": form.architecture.pad_token_id})
    add_parameters(config, {"encoder": json.dumps(encoder), "max_queue": limits.max_queue})
    add_parameters(config, _text_parameters(form))
    write_config(config, staging / tokenizer)
    write_tokenizer_model(source, staging / tokenizer / VERSION, ENCODER_ADAPTOR)
    write_lowering(source, form.architecture, staging / tokenizer / VERSION)

    answers = [form.output, *constants, _NUM_INPUT_TOKENS]
    config = new_ensemble(ensemble, _INPUTS[spec.task], answers, max_batch=limits.max_batch)
    add_step(config, tokenizer, _same(_INPUTS[spec.task]), _same(outputs))
    add_step(config, encoder, _same(tokenized), _same([form.output]))
    _name_labels(config, staging / ensemble, form)
    config.response_cache.enable = spec.serving.response_cache
    write_config(config, staging / ensemble)
    return graph


def _constants(form: EncoderForm) -> list[TensorSpec]:
    """Outputs that are the same for every text, which the tokenizer gives."""
    if form.task != "classify" or not isinstance(form.model, ClassifierModel):
        return []
    return [TensorSpec(protocol.LABELS, "BYTES", (len(form.model.labels),))]


def _text_parameters(form: EncoderForm) -> dict[str, str]:
    """What the tokenizer's adaptor must know besides its limits."""
    if isinstance(form.model, SentenceModel):
        return {
            "prompts": json.dumps(dict(form.model.prompts)),
            "default_prompt": json.dumps(form.model.default_prompt),
        }
    return {"labels": json.dumps(form.model.labels)} if form.task == "classify" else {}


def _name_labels(config: object, folder: Path, form: EncoderForm) -> None:
    """Let Triton's classification extension, which gives the k best of an output, name the labels."""
    if form.task == "classify" and isinstance(form.model, ClassifierModel):
        folder.mkdir(parents=True, exist_ok=True)
        names = (" ".join(label.split()) for label in form.model.labels)
        (folder / LABELS_FILE).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        next(each for each in config.output if each.name == form.output.name).label_filename = LABELS_FILE  # type: ignore[attr-defined]


def _same(tensors: Sequence[TensorSpec]) -> dict[str, str]:
    """Each tensor under its own name."""
    return {tensor.name: tensor.name for tensor in tensors}


def _warmups(limits: EncoderLimits, form: EncoderForm, preferred: Sequence[int]) -> list[Warmup]:
    """The corners of batch × length, so that no first request meets a shape or a size for the first time.

    Batches that Triton forms by preference are met too, of short texts.
    """
    fill = {protocol.INPUT_IDS: form.architecture.pad_token_id, protocol.ATTENTION_MASK: 1, protocol.TOKEN_TYPE_IDS: 0}
    short = min(_SHORT_TEXT, limits.max_context)
    shapes = {(1, short), (limits.max_batch, short), (1, limits.max_context), (limits.max_batch, limits.max_context)}
    shapes |= {(batch, short) for batch in preferred}
    return [
        Warmup(
            f"batch_{batch}_length_{length}",
            {tensor: np.full(length, fill[tensor], dtype=np.int64) for tensor in form.inputs},
            batch,
        )
        for batch, length in sorted(shapes)
    ]
