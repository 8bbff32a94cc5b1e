"""How vLLM serves an LLM: the tables of a spec whose ``engine`` is ``vllm``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from fathom_export.errors import SpecError
from fathom_export.spec.key import Key, check_ranges
from fathom_export.vllm.arguments import known_arguments

VllmPrecision = Literal["auto", "bf16", "fp32", "fp16", "int8", "int4", "fp8"]
KvCacheDtype = Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"]

DTYPES: Final[Mapping[str, str]] = {"auto": "auto", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""vLLM's ``dtype`` of a precision that quantises nothing."""

DECIDED: Final[Mapping[str, str]] = {
    "model": "vllm.checkpoint",
    "dtype": "precision",
    "tensor_parallel_size": "vllm.tensor_parallel_size",
    "pipeline_parallel_size": "vllm.pipeline_parallel_size",
    "distributed_executor_backend": "vllm.nodes",
    "gpu_memory_utilization": "vllm.gpu_memory_utilization",
    "kv_cache_dtype": "limits.kv_cache_dtype",
    "max_model_len": "limits.max_context",
    "max_num_seqs": "limits.max_batch",
}
"""vLLM's arguments that keys of the spec decide."""

REFUSED: Final[Mapping[str, str]] = {
    "hf_token": "a secret does not belong in a file of the repository; set HF_TOKEN where the server runs",
    "enable_lora": "Triton's backend then reads multi_lora.json, which fathom-export does not write",
    "skip_tokenizer_init": "texts could not be read or written",
    "tokens_only": "texts could not be read or written",
    "runner": "the model must generate",
}
"""vLLM's arguments that do not go with what is written, and why."""


@dataclass(frozen=True, slots=True)
class VllmLimits:
    """What vLLM takes on at once."""

    max_batch: Annotated[int, Key("sequences computed together (`max_num_seqs`)", minimum=1)] = 256
    max_queue: Annotated[int, Key("requests that wait before others are refused", minimum=0)] = 256
    max_context: Annotated[
        int | None, Key("tokens of a prompt and its answer (`max_model_len`); by default the model's own", minimum=1)
    ] = None
    default_max_tokens: Annotated[int, Key("tokens of an answer to a request that names no length", minimum=1)] = 256
    timeout_s: Annotated[float, Key("deadline in seconds of a request that brings none", above=0)] = 600.0
    kv_cache_dtype: Annotated[KvCacheDtype, Key("numbers that the cache keeps keys and values in")] = "auto"
    stream_responses_per_s: Annotated[
        int,
        Key(
            "streamed responses a second of all requests together; tokens of an answer that wait travel together; 0 "
            "for no bound",
            minimum=0,
        ),
    ] = 300

    def __post_init__(self) -> None:
        check_ranges(self, "limits")


@dataclass(frozen=True, slots=True)
class VllmServing:
    """How Triton runs the models around vLLM."""

    keep_versions: Annotated[
        int, Key("versions kept in the repository, the one that is served among them", minimum=1)
    ] = 2
    tokenizer_instances: Annotated[int, Key("tokenizer processes that work at once", minimum=1)] = 1
    health_check: Annotated[
        bool, Key("ask vLLM's engine for its health before each request; a sick one is unloaded, so not ready")
    ] = True

    def __post_init__(self) -> None:
        check_ranges(self, "serving")


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """What vLLM's engine is told."""

    checkpoint: Annotated[
        str,
        Key(
            "where the server finds the checkpoint: a folder there, or a hub id; by default the source's own hub id "
            "and revision, or its folder's full path"
        ),
    ] = ""
    tensor_parallel_size: Annotated[int, Key("GPUs that share each layer", minimum=1)] = 1
    pipeline_parallel_size: Annotated[int, Key("groups of such GPUs, each with a part of the layers", minimum=1)] = 1
    nodes: Annotated[
        int, Key("machines that the GPUs are in, as many in each; several are joined by Ray", minimum=1)
    ] = 1
    gpu_memory_utilization: Annotated[
        float, Key("share of each GPU's memory, at most 1, for weights, activations and the cache", above=0)
    ] = 0.9
    arguments: Annotated[
        Mapping[str, Any], Key("further engine arguments of vLLM by their own names, for its AsyncEngineArgs")
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges(self, "vllm")
        if self.gpu_memory_utilization > 1:
            raise SpecError(f"vllm.gpu_memory_utilization is {self.gpu_memory_utilization}; it must be at most 1")
        if self.gpus % self.nodes:
            raise SpecError(
                f"vllm.nodes is {self.nodes}, but tensor_parallel_size × pipeline_parallel_size is {self.gpus} GPUs, "
                "which they cannot share evenly; change one of the three"
            )
        for name, value in self.arguments.items():
            where = f"vllm.arguments.{name}"
            if name in DECIDED:
                raise SpecError(f"{where} is what {DECIDED[name]} says; set that instead")
            if name in REFUSED:
                raise SpecError(f"{where} is not taken: {REFUSED[name]}; leave it out")
            known_arguments().check(name, value, where)

    @property
    def gpus(self) -> int:
        """How many GPUs the model takes."""
        return self.tensor_parallel_size * self.pipeline_parallel_size
