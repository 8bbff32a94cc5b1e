"""The models of an LLM that vLLM computes: vLLM's own, and before it those that every LLM has, of the same tensors."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritonclient.grpc import model_config_pb2

from fathom_client import protocol
from fathom_export.decoder.config_values import ConfigValues, read_json_object
from fathom_export.errors import CheckpointError, InvalidContextError, SpecError
from fathom_export.repository.generate_models import FATHOM_BACKEND, chat_ensemble
from fathom_export.repository.model_config import (
    VERSION,
    add_cpu_instances,
    add_parameters,
    add_tool_calls,
    new_config,
    write_config,
)
from fathom_export.repository.tokenizer_files import GENERATE_ADAPTOR, copy_tokenizer, write_tokenizer_model
from fathom_export.sources.folder import CONFIG_FILE
from fathom_export.spec import VllmSpec, model_names
from fathom_server.text.tokenizer import TextTokenizer
from fathom_server.vllm import tensors
from fathom_server.vllm.settings import VllmSettings

if TYPE_CHECKING:
    from fathom_export.sources import Source

VLLM_BACKEND: Final = "vllm"

ONLINE_FP8: Final = "fp8_per_tensor"
"""vLLM's ``quantization`` of a checkpoint that is in none: since its 0.33 plain ``fp8`` means one that is in fp8."""

_TEXT_CONFIG: Final = "text_config"


def write_vllm_models(spec: VllmSpec, source: "Source", staging: Path) -> None:
    """Write the models of a spec into the staging folder; the checkpoint stays where it is.

    Raises SpecError, InvalidContextError and CheckpointError for what vLLM would refuse when it starts.
    """
    engine, tokenizer, ensemble, vllm = model_names(spec)
    config = _decoder_config(source.folder)
    context = _context(spec, config)
    _check_parallel(spec, config)

    version = staging / vllm / VERSION
    version.mkdir(parents=True)
    arguments = engine_arguments(spec, source, context, _quantised_by(config))
    (version / tensors.ARGUMENTS_FILE).write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")
    write_config(_vllm_config(spec, vllm), staging / vllm)

    version = staging / engine / VERSION
    version.mkdir(parents=True)
    copy_tokenizer(source.folder, version)
    text = TextTokenizer.load(version)
    limits = spec.limits
    VllmSettings(
        model=vllm,
        max_requests=limits.max_batch + limits.max_queue,
        max_context=context,
        default_max_tokens=limits.default_max_tokens,
        timeout_s=limits.timeout_s,
        stream_responses_per_s=limits.stream_responses_per_s,
    ).save(version)
    front = new_config(engine, FATHOM_BACKEND, protocol.GENERATE_INPUTS, protocol.GENERATE_OUTPUTS)
    front.model_transaction_policy.decoupled = True
    add_tool_calls(front, text.tool_template)
    add_cpu_instances(front)
    write_config(front, staging / engine)

    tokens = new_config(tokenizer, "python", protocol.TOKENIZE_INPUTS, protocol.TOKENIZE_OUTPUTS)
    add_cpu_instances(tokens, spec.serving.tokenizer_instances)
    write_config(tokens, staging / tokenizer)
    write_tokenizer_model(source.folder, staging / tokenizer / VERSION, GENERATE_ADAPTOR)
    write_config(chat_ensemble(ensemble, tokenizer, engine), staging / ensemble)


def engine_arguments(spec: VllmSpec, source: "Source", context: int, quantised_by: str | None) -> dict[str, Any]:
    """What ``model.json`` says: keyword arguments of vLLM's ``AsyncEngineArgs``.

    ``quantised_by`` is the method of a checkpoint that is quantised already. Raises SpecError where the spec wants
    another.
    """
    vllm = spec.vllm
    arguments: dict[str, Any] = {
        **_checkpoint(spec, source),
        "dtype": spec.dtype,
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "pipeline_parallel_size": vllm.pipeline_parallel_size,
        "gpu_memory_utilization": vllm.gpu_memory_utilization,
        "kv_cache_dtype": spec.limits.kv_cache_dtype,
        "max_model_len": context,
        "max_num_seqs": spec.limits.max_batch,
    }
    if vllm.gpus > 1:
        arguments["distributed_executor_backend"] = "ray" if vllm.nodes > 1 else "mp"
    if spec.precision == "fp8":
        if quantised_by is None:
            arguments["quantization"] = ONLINE_FP8
        elif "fp8" not in quantised_by:
            raise SpecError(
                f"precision is 'fp8', but {spec.source} is quantised by {quantised_by} already; leave precision out, "
                "or name the checkpoint that it was made of"
            )
    return arguments | dict(vllm.arguments)


def _checkpoint(spec: VllmSpec, source: "Source") -> dict[str, str]:
    if spec.vllm.checkpoint:
        return {"model": spec.vllm.checkpoint}
    if source.kind == "hub":
        name = source.given.partition("@")[0]
        return {"model": name, **({"revision": source.revision} if source.revision else {})}
    return {"model": str(source.folder)}


def _vllm_config(spec: VllmSpec, name: str) -> Any:
    config = new_config(name, VLLM_BACKEND, tensors.INPUTS, tensors.OUTPUTS)
    config.model_transaction_policy.decoupled = True
    # the model takes charge of its GPUs itself; the backend refuses KIND_GPU for several
    config.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_MODEL)
    health = "true" if spec.serving.health_check else "false"
    add_parameters(config, {tensors.HEALTH_CHECK_PARAMETER: health, tensors.METRICS_PARAMETER: "true"})
    return config


def _decoder_config(source: Path) -> ConfigValues:
    """The decoder's part of config.json, which models of images and texts keep in an object of its own."""
    path = source / CONFIG_FILE
    values = ConfigValues(read_json_object(path), path)
    inside = values.section(_TEXT_CONFIG)
    return values if inside is None else ConfigValues({**values.config, **inside.config}, path)


def _quantised_by(config: ConfigValues) -> str | None:
    section = config.section("quantization_config")
    if section is None:
        return None
    parts = [str(section.config.get(key, "")) for key in ("quant_method", "format")]  # compressed-tensors says how
    return " ".join(part for part in parts if part) or "an unnamed method"


def _context(spec: VllmSpec, config: ConfigValues) -> int:
    wanted = spec.limits.max_context
    if config.config.get("max_position_embeddings") is None:
        if wanted is None:
            raise InvalidContextError(f"{config.path} names no max_position_embeddings; set limits.max_context")
        return wanted
    own = config.size("max_position_embeddings")
    if wanted is not None and wanted > own:
        raise InvalidContextError(
            f"limits.max_context is {wanted}, but {spec.source} was made for {own} tokens; set at most {own}"
        )
    return own if wanted is None else wanted


def _check_parallel(spec: VllmSpec, config: ConfigValues) -> None:
    """Refuse sizes that vLLM refuses once it has its GPUs (``ModelConfig.verify_with_parallel_config``)."""
    try:
        heads, layers = config.size("num_attention_heads"), config.size("num_hidden_layers")
    except CheckpointError:
        return  # an architecture with other names for them: vLLM knows
    tensor, pipeline = spec.vllm.tensor_parallel_size, spec.vllm.pipeline_parallel_size
    if heads % tensor:
        sizes = ", ".join(str(size) for size in range(1, heads + 1) if heads % size == 0)
        raise SpecError(
            f"vllm.tensor_parallel_size is {tensor}, but {spec.source} has {heads} attention heads, which must be "
            f"shared evenly; valid: {sizes}"
        )
    if pipeline > layers:
        raise SpecError(
            f"vllm.pipeline_parallel_size is {pipeline}, but {spec.source} has {layers} layers; set at most {layers}"
        )
