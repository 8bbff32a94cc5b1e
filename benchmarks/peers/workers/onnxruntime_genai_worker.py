"""onnxruntime-genai: MODEL.

Requests that come together are one batch of ``Generator``. Those that come one by one go to ``Engine``, whose form on a
CPU is the static batch, too: its dynamic one wants a model with paged attention, which the builder makes for CUDA only.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnxruntime_genai as og
from line_protocol import Job, drive, serve

MAX_BATCH = 16
THREADS = 2
PAD = 0


class StaticBatches:
    """Batches made of what waits; prompts of unequal length are padded on the left."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._waiting: list[tuple[int, Job]] = []
        self._batch: list[tuple[int, Job]] = []
        self._generator: Any = None
        self._done = 0

    def submit(self, index: int, job: Job) -> None:
        """See ``Stepper``."""
        self._waiting.append((index, job))

    def is_busy(self) -> bool:
        """See ``Stepper``."""
        return bool(self._waiting or self._batch)

    def step(self) -> Iterable[tuple[int, int]]:
        """See ``Stepper``."""
        if not self._batch:
            self._begin()
        self._generator.generate_next_token()
        self._done += 1
        got = [(index, 1) for index, job in self._batch if self._done <= job.max_tokens]
        if self._done >= max(job.max_tokens for _, job in self._batch):
            self._batch, self._generator = [], None
        return got

    def _begin(self) -> None:
        self._batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        self._done = 0
        width = max(len(job.prompt) for _, job in self._batch)
        length = width + max(job.max_tokens for _, job in self._batch)
        prompts = np.array([[PAD] * (width - len(job.prompt)) + job.prompt for _, job in self._batch], dtype=np.int32)
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(
            batch_size=len(self._batch), max_length=length, min_length=length, do_sample=False
        )
        self._generator = og.Generator(self._model, parameters)
        self._generator.append_tokens(prompts if len(self._batch) > 1 else prompts[0])


class EngineSteps:
    """The library's own scheduler."""

    def __init__(self, model: Any) -> None:
        self._engine = og.Engine(model)
        self._events = self._engine.create_event_buffer(64)
        self._requests: dict[Any, int] = {}

    def submit(self, index: int, job: Job) -> None:
        """See ``Stepper``."""
        request = self._engine.create_request()
        options = og.TurnOptions(request)
        options.set_max_generated_tokens(job.max_tokens)
        options.set_min_generated_tokens(job.max_tokens)
        options.set_do_sample(False)
        request.begin_turn(np.array(job.prompt, dtype=np.int32), options)
        self._requests[request] = index

    def is_busy(self) -> bool:
        """See ``Stepper``."""
        return bool(self._engine.has_pending_requests())

    def step(self) -> Iterable[tuple[int, int]]:
        """See ``Stepper``."""
        got = []
        for event in self._engine.run(self._events):
            if event.flags & og.EngineEventFlags.FAILED:
                raise RuntimeError(f"onnxruntime-genai's engine failed: {event.error_code}")
            if event.flags & og.EngineEventFlags.TOKEN:
                got.append((self._requests[event.request], 1))
            if event.flags & og.EngineEventFlags.TURN_FINISHED:
                event.request.close()
                del self._requests[event.request]
        return got


def main() -> None:
    """Load and serve."""
    config = og.Config(sys.argv[1])
    decoder = {"session_options": {"intra_op_num_threads": THREADS}}
    engine = {"static_batching": {"max_batch_size": MAX_BATCH}}
    config.overlay(json.dumps({"model": {"decoder": decoder}, "engine": engine}))
    model = og.Model(config)
    together, paced = StaticBatches(model), EngineSteps(model)
    serve(lambda jobs: drive(paced if any(job.at_s for job in jobs) else together, jobs))


if __name__ == "__main__":
    main()
