"""OpenVINO GenAI: MODEL. Its continuous batching, stepped by hand; keys and values in 8 bits, its default."""

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import openvino
import openvino_genai
from line_protocol import Job, drive, serve

CACHE_GB = 1
MAX_BATCH = 16
STEP_TOKENS = 2048


class ContinuousBatching:
    """One step of the pipeline at a time."""

    def __init__(self, folder: str) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.max_num_seqs = MAX_BATCH
        scheduler.max_num_batched_tokens = STEP_TOKENS
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = False
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            folder, scheduler, "CPU", {"INFERENCE_NUM_THREADS": 2, "PERFORMANCE_HINT": "LATENCY"}
        )
        self._handles: dict[int, Any] = {}

    def submit(self, index: int, job: Job) -> None:
        """See ``Stepper``."""
        config = openvino_genai.GenerationConfig(
            max_new_tokens=job.max_tokens, ignore_eos=True, do_sample=False, apply_chat_template=False
        )
        prompt = openvino.Tensor(np.array([job.prompt], dtype=np.int64))
        self._handles[index] = self._pipeline.add_request(index, prompt, config)

    def is_busy(self) -> bool:
        """See ``Stepper``."""
        return bool(self._pipeline.has_non_finished_requests())

    def step(self) -> Iterable[tuple[int, int]]:
        """See ``Stepper``."""
        self._pipeline.step()
        got = []
        for index, handle in list(self._handles.items()):
            while handle.can_read():
                got += [(index, len(output.generated_ids)) for output in handle.read().values()]
            if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                del self._handles[index]
        return got


def main() -> None:
    """Load and serve."""
    stepper = ContinuousBatching(sys.argv[1])
    serve(lambda jobs: drive(stepper, jobs))


if __name__ == "__main__":
    main()
