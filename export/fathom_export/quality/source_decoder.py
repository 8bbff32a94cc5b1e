"""The source model in transformers, float32, on CPU."""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fathom_export.errors import CheckpointError


def has_torch() -> bool:
    """Whether torch and transformers are installed; imports neither."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


class SourceDecoder:
    """A checkpoint as transformers computes it."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @classmethod
    def load(cls, source: Path) -> Self:
        """Load a folder's safetensors in float32. Raises CheckpointError where transformers cannot."""
        import torch
        import transformers

        with _quiet():
            try:
                model = transformers.AutoModelForCausalLM.from_pretrained(
                    source, use_safetensors=True, trust_remote_code=False, local_files_only=True, dtype=torch.float32
                )
            except Exception as error:  # safetensors, transformers and torch raise kinds of their own
                raise CheckpointError(
                    f"{source} cannot be loaded by transformers ({type(error).__name__}: {error}); download it again"
                ) from error
        return cls(model.eval())

    def logits(self, token_ids: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after the tokens at some positions: float32 [positions, vocabulary]."""
        import torch

        with torch.inference_mode():
            kept = torch.tensor(list(positions))
            output = self._model(input_ids=torch.tensor([list(token_ids)]), logits_to_keep=kept, use_cache=False)
        logits: npt.NDArray[np.float32] = output.logits[0].float().numpy()
        return logits

    def greedy(self, prompt_ids: Sequence[int], new_tokens: int) -> tuple[int, ...]:
        """The most probable tokens after a prompt, one by one with a cache, through end tokens."""
        import torch

        tokens: list[int] = []
        step = torch.tensor([list(prompt_ids)])
        cache = None
        with torch.inference_mode():
            while len(tokens) < new_tokens:
                output = self._model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = output.past_key_values
                tokens.append(int(output.logits[0, -1].argmax()))
                step = torch.tensor([[tokens[-1]]])
        return tuple(tokens)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back transformers' progress bars and warnings; errors still come through."""
    import transformers

    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        if bars:
            transformers.utils.logging.enable_progress_bar()
