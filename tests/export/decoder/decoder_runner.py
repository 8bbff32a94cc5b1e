"""Runs a decoder graph step by step on ONNX Runtime, its cache bound in place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from fathom_server.engine.settings import (
    GRAPH_FILE,
    INPUT_IDS,
    LOGIT_POSITIONS,
    LOGITS,
    POSITION_IDS,
    SEQLENS_K,
    TOTAL_SEQUENCE_LENGTH,
    WRITE_INDICES,
    GraphDescription,
    past_name,
    present_name,
)

Logits = npt.NDArray[np.float32]


class DecoderRunner:
    """Rows of a cache that holds garbage at first, so that reading what was never written shows."""

    def __init__(self, folder: Path, graph: GraphDescription, rows: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 2
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = ort.InferenceSession(str(folder / GRAPH_FILE), options, providers=["CPUExecutionProvider"])
        self._graph = graph
        shape = (graph.layers, 2, rows, graph.kv_heads, graph.max_context, graph.head_dim)
        self._cache = np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)
        self._lengths = np.zeros(rows, np.int64)

    def step(self, ids: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], first_row: int = 0) -> Logits:
        """Append ``ids`` [batch, sequence] to rows from ``first_row`` on; logits at ``positions`` [batch, k]."""
        rows = slice(first_row, first_row + len(ids))
        tokens = np.array(ids, np.int64)
        past = self._lengths[rows].copy()
        self._lengths[rows] += tokens.shape[1]
        feeds: dict[str, npt.NDArray[Any]] = {
            INPUT_IDS: tokens,
            LOGIT_POSITIONS: np.array(positions, np.int64).reshape(len(ids), -1),
        }
        if self._graph.dialect == "cpu":
            feeds[SEQLENS_K] = (self._lengths[rows] - 1).astype(np.int32)
            feeds[TOTAL_SEQUENCE_LENGTH] = np.array(self._lengths[rows].max(), np.int32)
        else:
            feeds[POSITION_IDS] = past[:, np.newaxis] + np.arange(tokens.shape[1])
            feeds[WRITE_INDICES] = past
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        for layer in range(self._graph.layers):
            for part, key_or_value in enumerate(("key", "value")):
                memory = self._cache[layer, part, rows]
                place = ("cpu", 0, np.float32, memory.shape, memory.ctypes.data)
                binding.bind_input(past_name(layer, key_or_value), *place)
                binding.bind_output(present_name(layer, key_or_value), *place)
        binding.bind_output(LOGITS, "cpu")
        self._session.run_with_iobinding(binding)
        logits: Logits = binding.get_outputs()[-1].numpy()
        return logits

    def prefill(self, prompt: Sequence[int], chunk: int, row: int = 0) -> Logits:
        """Append a prompt in chunks, all but the last without logits; logits [vocabulary] of its last position."""
        for start in range(0, len(prompt), chunk):
            piece = prompt[start : start + chunk]
            is_last = start + chunk >= len(prompt)
            logits = self.step([piece], [[len(piece) - 1] if is_last else []], row)
        return logits[0, 0]

    def generate(self, prompt: Sequence[int], new_tokens: int, chunk: int = 16) -> list[int]:
        """Greedy tokens after a prompt, on row 0."""
        tokens = [int(self.prefill(prompt, chunk).argmax())]
        while len(tokens) < new_tokens:
            tokens.append(int(self.step([tokens[-1:]], [[0]])[0, 0].argmax()))
        return tokens
