"""How Triton runs the models of a spec: what config.pbtxt says that the graph does not decide."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fathom_export.spec.key import Key, check_ranges

InstanceKind = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Serving:
    """How Triton runs the models of a spec."""

    keep_versions: Annotated[
        int, Key("versions kept in the repository, the one that is served among them", minimum=1)
    ] = 2
    instance_kind: Annotated[InstanceKind, Key("where the instances of the weights' model run")] = "cpu"
    tokenizer_instances: Annotated[int, Key("tokenizer processes that work at once", minimum=1)] = 1
    rate_limit_priority: Annotated[
        int, Key("rank for Triton's rate limiter, 1 before 2; 0 is Triton's default", minimum=0)
    ] = 0
    rate_limit_resources: Annotated[
        Mapping[str, int],
        Key(
            "resources that each instance holds while it computes, by name; models that name the same one take turns, "
            "since Triton's pool is as large as the largest request for it",
            minimum=1,
        ),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges(self, "serving")


@dataclass(frozen=True, slots=True)
class EncoderServing(Serving):
    """How Triton runs an encoder's models."""

    preferred_batch_sizes: Annotated[
        tuple[int, ...], Key("batches that go off without waiting for more; none is max_batch alone", minimum=1)
    ] = ()
    queue_timeout_ms: Annotated[
        int, Key("milliseconds after which a waiting request is refused, 0 for never", minimum=0)
    ] = 0
    response_cache: Annotated[
        bool, Key("answer a repeated text from memory; fathom-serve then starts Triton's local cache")
    ] = False
