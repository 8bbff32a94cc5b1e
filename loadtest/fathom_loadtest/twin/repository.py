"""The twin's model repository: a config.pbtxt a model, made through Triton's own protobuf, and what serves it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fathom_client import protocol
from fathom_client.protocol import TensorSpec
from fathom_loadtest.errors import TwinError
from fathom_loadtest.twin.settings import (
    SETTINGS_PARAMETER,
    EncoderTwin,
    GenerateTwin,
    TwinSettings,
    model_to_json,
    served_names,
)

_VERSION: Final = "1"
_TOKENIZED_IDS: Final = "tokenized_ids"
_PROMPTS: Final = (protocol.TEXT_INPUT, protocol.MESSAGES, protocol.INPUT_IDS)
_ENCODER_TENSORS: Final[Mapping[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]] = {
    "embed": (protocol.EMBED_INPUTS, protocol.EMBED_OUTPUTS),
    "rerank": (protocol.RERANK_INPUTS, protocol.RERANK_OUTPUTS),
    "classify": (protocol.CLASSIFY_INPUTS, protocol.CLASSIFY_OUTPUTS),
}


def write_repository(settings: TwinSettings, folder: Path) -> None:
    """Write every model into ``folder``, which must be new or empty. Raises TwinError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise TwinError(f"{folder} is not empty; name a new folder for the repository")
        for model in settings.models:
            if isinstance(model, GenerateTwin):
                _write_generate(model, settings.seed, folder)
            else:
                _write_encoder(model, settings.seed, folder)
    except OSError as error:
        raise TwinError(f"{folder} cannot be written ({error.strerror}); name another folder") from error


def _write_generate(model: GenerateTwin, seed: int, folder: Path) -> None:
    engine, tokenizer, ensemble = served_names(model)
    config = _config(engine, protocol.GENERATE_INPUTS, protocol.GENERATE_OUTPUTS)
    config.model_transaction_policy.decoupled = True
    _add_settings(config, model, seed)
    _write(config, folder, "generate")

    config = _config(tokenizer, protocol.TOKENIZE_INPUTS, protocol.TOKENIZE_OUTPUTS)
    _write(config, folder, "tokenizer")

    config = _config(ensemble, protocol.GENERATE_INPUTS, protocol.GENERATE_OUTPUTS)
    config.ClearField("backend")
    config.ClearField("instance_group")
    config.platform = "ensemble"
    others = [tensor.name for tensor in protocol.GENERATE_INPUTS if tensor.name not in _PROMPTS]
    _add_step(config, tokenizer, {name: name for name in _PROMPTS}, {protocol.INPUT_IDS: _TOKENIZED_IDS})
    _add_step(
        config,
        engine,
        {protocol.INPUT_IDS: _TOKENIZED_IDS, **{name: name for name in others}},
        {tensor.name: tensor.name for tensor in protocol.GENERATE_OUTPUTS},
    )
    _write(config, folder, None)


def _write_encoder(model: EncoderTwin, seed: int, folder: Path) -> None:
    inputs, outputs = _ENCODER_TENSORS[model.task]
    config = _config(model.name, inputs, outputs, max_batch=model.max_batch, instances=model.instances)
    config.dynamic_batching.max_queue_delay_microseconds = 0
    _add_settings(config, model, seed)
    _write(config, folder, "encoder")


def _config(
    name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, max_batch: int = 0, instances: int = 1
) -> Any:
    config = model_config_pb2.ModelConfig(name=name, backend="python", max_batch_size=max_batch)
    for tensor in inputs:
        config.input.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.dims, optional=tensor.optional)
    for tensor in outputs:
        config.output.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.dims)
    config.instance_group.add(count=instances, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    return config


def _add_settings(config: Any, model: GenerateTwin | EncoderTwin, seed: int) -> None:
    content = json.dumps({"model": model_to_json(model), "seed": seed}, ensure_ascii=False)
    config.parameters[SETTINGS_PARAMETER].string_value = content


def _add_step(config: Any, model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
    step.input_map.update(inputs)
    step.output_map.update(outputs)


def _write(config: Any, folder: Path, served_by: str | None) -> None:
    """Write a model; ``served_by`` is the module of ``twin.backend`` behind it."""
    version = folder / config.name / _VERSION
    version.mkdir(parents=True)
    text = text_format.MessageToString(config, as_utf8=True)
    (folder / config.name / "config.pbtxt").write_text(text, encoding="utf-8")
    if served_by is not None:
        line = f"from fathom_loadtest.twin.backend.{served_by} import TritonPythonModel  # noqa: F401\n"
        (version / "model.py").write_text(f'"""A twin of fathom-loadtest\'s."""\n\n{line}', encoding="utf-8")


def _data_type(tensor: TensorSpec) -> int:
    """KServe's datatype in the words of model_config.proto, which call BYTES a string."""
    word = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    number: int = model_config_pb2.DataType.Value(f"TYPE_{word}")
    return number
