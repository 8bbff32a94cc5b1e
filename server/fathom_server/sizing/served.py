"""A CPU that serves: its cores are the engine's, Triton's, and those of whoever sends and reads."""

from dataclasses import dataclass
from typing import Final

from fathom_server.sizing.form import EngineForm
from fathom_server.sizing.roofline import Processor, StepLoad, StepTime
from fathom_server.sizing.shape import DecoderShape

SHARE: Final = 1.3
"""A step over its kernels alone: norms, rotations, sampling, and cores that others use meanwhile."""
TOKEN_S: Final = 42e-6
"""What each token of a step adds on its way to its caller."""
REQUEST_S: Final = 5e-3
"""From sending a request to its first step and from the first token to its reader."""
# All three are fitted on what `python -m benchmarks.fit speed` shows: four models in three precisions at 1, 4 and 8
# streams on two cores, which the client shares (Triton 2.51, Python 3.11).


@dataclass(frozen=True, slots=True)
class ServedProcessor:
    """A calibrated CPU as a client sees it through Triton and gRPC."""

    processor: Processor

    def step(self, shape: DecoderShape, form: EngineForm, load: StepLoad) -> StepTime:
        """See ``Machine.step``; the first chunk of a prompt carries what its request takes beside the steps."""
        bare = self.processor.step(shape, form, load)
        begins = load.past == 0 and load.new > 1
        serving_s = (SHARE - 1) * bare.seconds + TOKEN_S * load.logits + REQUEST_S * begins * load.sequences
        parts = {**bare.parts, "overhead": bare.parts["overhead"] + serving_s}
        return StepTime(parts, bare.seconds + serving_s)
