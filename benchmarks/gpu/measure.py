"""What takes a GPU: the chip's own limits, our runner, and transformers on the same chip."""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks.gpu.roofline import Chip

from fathom_server.engine.runner.base import StepRow
from fathom_server.engine.settings import EngineSettings

_COPY_BYTES: Final = 1 << 30
_SQUARE: Final = 8192
_WARM: Final = 3


def chip_limits() -> Chip:
    """The best of ten copies of a GiB, and of ten float16 products of 8192 × 8192."""
    import torch

    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy_s = min(seconds_of(lambda: target.copy_(source)) for _ in range(10))
    square = torch.randn(_SQUARE, _SQUARE, dtype=torch.float16, device="cuda")
    product_s = min(seconds_of(lambda: square @ square) for _ in range(10))
    return Chip(2 * _COPY_BYTES / copy_s, 2 * _SQUARE**3 / product_s)


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall-clock seconds until the GPU has done some work."""
    import torch

    torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


class OurModel:
    """An exported version, driven step by step as the engine drives it."""

    def __init__(self, folder: Path) -> None:
        from fathom_server.engine.runner.cuda_onnx import CudaOnnxRunner

        settings = EngineSettings.load(folder)
        self.runner = CudaOnnxRunner(folder, settings)
        self._blocks_each = -(-settings.limits.max_context // self.runner.geometry.block_tokens)
        self._vocabulary = settings.graph.vocabulary

    def prefill(self, batch: int, tokens: int) -> Callable[[], object]:
        """Work that computes ``batch`` random prompts in one step."""
        ids = np.random.default_rng(0).integers(0, self._vocabulary, (batch, tokens)).tolist()
        rows = [StepRow(self._blocks(place), 0, ids[place], 1) for place in range(batch)]
        return lambda: self.runner.step_reduced(rows)

    def decode(self, batch: int, context: int) -> Callable[[], object]:
        """Work that computes one token of each of ``batch`` sequences, ``context`` tokens long."""
        rows = [StepRow(self._blocks(place), context - 1, [place + 1], 1) for place in range(batch)]
        return lambda: self.runner.step_reduced(rows)

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The greedy answer to a prompt."""
        row = StepRow(self._blocks(0), 0, prompt, 1)
        tokens = [int(self.runner.step_reduced([row])[0].argmax())]
        while len(tokens) < count:
            row = StepRow(self._blocks(0), len(prompt) + len(tokens) - 1, tokens[-1:], 1)
            tokens.append(int(self.runner.step_reduced([row])[0].argmax()))
        return tokens

    def _blocks(self, place: int) -> range:
        return range(place * self._blocks_each, (place + 1) * self._blocks_each)


class TransformersModel:
    """The checkpoint in transformers, float16, its own attention and a static cache."""

    def __init__(self, source: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16).to("cuda").eval()

    def prefill(self, batch: int, tokens: int) -> Callable[[], object]:
        """As ours."""
        torch = self._torch
        ids = torch.randint(0, self._model.config.vocab_size, (batch, tokens), device="cuda")
        return lambda: self._forward(input_ids=ids, use_cache=True, logits_to_keep=1)

    def decode(self, batch: int, context: int) -> Callable[[], object]:
        """As ours: the cache is filled once, then the same position is computed again and again."""
        torch = self._torch
        from transformers import StaticCache

        cache = StaticCache(config=self._model.config, max_cache_len=context)
        ids = torch.randint(0, self._model.config.vocab_size, (batch, context - 1), device="cuda")
        self._forward(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        step = torch.ones((batch, 1), dtype=torch.long, device="cuda")
        position = torch.tensor([context - 1], device="cuda")
        return lambda: self._forward(input_ids=step, past_key_values=cache, cache_position=position, use_cache=True)

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The greedy answer to a prompt."""
        ids = self._torch.tensor([prompt], device="cuda")
        found = self._model.generate(ids, do_sample=False, min_new_tokens=count, max_new_tokens=count)
        return [int(token) for token in found[0, len(prompt) :]]

    def _forward(self, **inputs: Any) -> Any:
        with self._torch.inference_mode():
            return self._model(**inputs).logits[:, -1].argmax(dim=-1).cpu()


def repeated(work: Callable[[], object], runs: int) -> list[float]:
    """Seconds of each of some runs, after a few that do not count."""
    for _ in range(_WARM):
        work()
    return [seconds_of(work) for _ in range(runs)]


def let_go() -> None:
    """Give the GPU back what models that are gone have held."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
