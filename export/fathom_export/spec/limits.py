"""What an encoder takes on at once. The LLM engine's limits are ``fathom_server.engine.settings.EngineLimits``."""

from dataclasses import dataclass
from typing import Annotated

from fathom_export.spec.key import Key, check_ranges


@dataclass(frozen=True, slots=True)
class EncoderLimits:
    """What an encoder takes on at once."""

    max_batch: Annotated[int, Key("texts computed together", minimum=1)] = 32
    max_queue: Annotated[int, Key("requests that wait before others are refused, 0 for any number", minimum=0)] = 256
    max_context: Annotated[int, Key("tokens of a text; by default the model's own", minimum=1)] = 512
    max_queue_delay_us: Annotated[int, Key("microseconds that a request may wait for company", minimum=0)] = 0
    instances: Annotated[int, Key("sessions that compute at once", minimum=1)] = 1
    threads: Annotated[int, Key("ONNX Runtime's threads, 0 for every core", minimum=0)] = 0

    def __post_init__(self) -> None:
        check_ranges(self, "limits")
