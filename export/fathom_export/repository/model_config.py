"""Parts of ``config.pbtxt``, made through Triton's own protobuf."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fathom_client.protocol import TOOL_CALL_FORMAT_PARAMETER, TensorSpec
from fathom_export.spec import Serving
from fathom_server.text.tool_call_format import tool_call_format

CONFIG_FILE: Final = "config.pbtxt"
VERSION: Final = "1"
WARMUP_FOLDER: Final = "warmup"


@dataclass(frozen=True, slots=True)
class Warmup:
    """A request that Triton sends to a model before it is ready; ``tensors`` are without the batch dimension."""

    name: str
    tensors: Mapping[str, np.ndarray[Any, Any]]
    batch: int = 1


def new_config(
    name: str, backend: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], *, max_batch: int = 0
) -> Any:
    """A ModelConfig of one backend on the CPU; ``max_batch`` 0 is a model without a batch dimension."""
    config = _config_of_tensors(name, inputs, outputs, max_batch)
    config.backend = backend
    return config


def new_ensemble(name: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], *, max_batch: int = 0) -> Any:
    """A ModelConfig of an ensemble without steps yet."""
    config = _config_of_tensors(name, inputs, outputs, max_batch)
    config.platform = "ensemble"
    return config


def add_step(config: Any, model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Append a step to an ensemble; the maps go from the model's tensor to the ensemble's."""
    step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
    step.input_map.update(inputs)
    step.output_map.update(outputs)


def add_cpu_instances(config: Any, count: int = 1) -> None:
    """So many instances, all on the CPU."""
    config.instance_group.add(count=count, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)


def add_tool_calls(config: Any, chat_template: str | None) -> None:
    """How the template writes calls of tools, for whoever reads them out of answers; nothing where it knows none."""
    form = tool_call_format(chat_template or "")
    if form is not None:
        config.parameters[TOOL_CALL_FORMAT_PARAMETER].string_value = form


def add_instances(config: Any, serving: Serving, count: int = 1) -> None:
    """So many instances where the spec wants them, with what they need of Triton's rate limiter."""
    kinds = model_config_pb2.ModelInstanceGroup
    kind = kinds.KIND_GPU if serving.instance_kind == "gpu" else kinds.KIND_CPU
    group = config.instance_group.add(count=count, kind=kind)
    group.rate_limiter.priority = serving.rate_limit_priority
    for name, amount in serving.rate_limit_resources.items():
        # "global": one pool for the machine, not one for each device
        group.rate_limiter.resources.add(name=name, count=amount, **{"global": True})
    if not serving.rate_limit_priority and not serving.rate_limit_resources:
        group.ClearField("rate_limiter")


def add_dynamic_batching(
    config: Any,
    max_queue_delay_us: int = 0,
    *,
    preferred_batch_sizes: Sequence[int] = (),
    queue_timeout_ms: int = 0,
) -> None:
    """Let Triton join requests of equal shape; one that has waited ``queue_timeout_ms`` (0: no bound) is refused.

    No ``max_queue_size``, and no timeout unless it is asked for: under a queue policy Triton's batcher prefetches no
    batch and misses the end of the one that runs, so that requests wait for its next look, up to half a second later
    (``WaitForPayloadSlotAvailable`` in dynamic_batch_scheduler.cc; six requests at once took 514 ms instead of 15).
    """
    batching = config.dynamic_batching
    batching.preferred_batch_size.extend(preferred_batch_sizes)
    batching.max_queue_delay_microseconds = max_queue_delay_us
    if queue_timeout_ms:
        batching.default_queue_policy.default_timeout_microseconds = queue_timeout_ms * 1000


def add_parameters(config: Any, values: Mapping[str, str | int]) -> None:
    """Parameters that the backend reads, as texts."""
    for key, value in values.items():
        config.parameters[key].string_value = str(value)


def add_warmup(config: Any, folder: Path, warmups: Sequence[Warmup]) -> None:
    """Add warm-up requests and write their tensors under the model's ``warmup`` folder.

    ``batch_size`` must be 1 or more even for models that do not batch: Triton skips a request of batch 0 silently. One
    of more is sent as that many single requests, which the backend gets together.
    """
    types = {tensor.name: tensor.data_type for tensor in config.input}
    (folder / WARMUP_FOLDER).mkdir(parents=True)
    for warmup in warmups:
        entry = config.model_warmup.add(name=warmup.name, batch_size=warmup.batch, count=1)
        for name, value in warmup.tensors.items():
            file = f"{warmup.name}.{name}"
            (folder / WARMUP_FOLDER / file).write_bytes(value.tobytes())
            sent = entry.inputs[name]
            sent.data_type = types[name]
            sent.dims.extend(value.shape)
            sent.input_data_file = file


def write_config(config: Any, folder: Path) -> None:
    """Write ``config.pbtxt`` and make the version's folder, which Triton asks for even of an ensemble."""
    (folder / VERSION).mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(text_format.MessageToString(config, as_utf8=True), encoding="utf-8")


def _config_of_tensors(name: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], max_batch: int) -> Any:
    config = model_config_pb2.ModelConfig(name=name, max_batch_size=max_batch)
    for tensor in inputs:
        config.input.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.dims, optional=tensor.optional)
    for tensor in outputs:
        config.output.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.dims)
    return config


def _data_type(tensor: TensorSpec) -> int:
    """KServe's datatype in the words of model_config.proto, which call BYTES a string."""
    word = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    number: int = model_config_pb2.DataType.Value(f"TYPE_{word}")
    return number
