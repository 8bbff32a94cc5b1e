"""An LLM for a device: a bundle for ONNX Runtime alone, and the budget that it must keep to."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from fathom_export.errors import SpecError
from fathom_export.quantise.table import DEVICE_TARGET, refusal
from fathom_export.spec.key import Key, check_ranges
from fathom_export.spec.model_spec import Name, SourceName, check_name

DevicePrecision = Literal["auto", "fp32", "fp16", "int8", "int4", "fp8"]

DEVICE_TASK: Final = "generate"


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """An LLM for a device without Triton, written by `fathom-export --target device`."""

    name: Name
    source: SourceName
    output: Annotated[str, Key("folder to write, relative to this file; by default `device/` and the name")] = ""
    precision: Annotated[
        DevicePrecision,
        Key("numbers that the weights are kept in; auto is the best of int8 and int4 within the budget"),
    ] = "auto"
    max_context: Annotated[int, Key("tokens of a prompt and its answer", minimum=32)] = 512
    max_size_mb: Annotated[
        float | None, Key("most that all files may take, in MB of a million bytes; by default no bound", above=0)
    ] = None
    max_memory_mb: Annotated[
        float | None,
        Key("most resident memory of a process that generates, in MB of a million bytes; by default no bound", above=0),
    ] = None

    def __post_init__(self) -> None:
        check_name(self.name)
        check_ranges(self, "")
        message = None if self.precision == "auto" else refusal(DEVICE_TASK, DEVICE_TARGET, self.precision)
        if message is not None:
            raise SpecError(message)
