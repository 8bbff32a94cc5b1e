"""Bytes that follow from no shape: measured, or somebody else's, with their sources.

Those of processes are fitted on what ``python -m benchmarks.fit memory`` shows, four models in three precisions
(Triton 2.51, Python 3.11, ONNX Runtime 1.31). Those of CUDA have not been measured here.
"""

from typing import Final

MIB: Final = 1 << 20

ENGINE_PROCESS_BYTES: Final = 90 * MIB
"""An engine's process before a model: Triton's stub, Python, NumPy, ONNX Runtime, tokenizers, llguidance."""
ENGINE_BYTES_PER_TOKEN_ID: Final = 1950
"""Of tokenizer, token bytes and grammar vocabulary in that process, an entry of the vocabulary."""
TOKENIZER_PROCESS_BYTES: Final = 45 * MIB
"""The process of a tokenizer model, and of any other Python model."""
TOKENIZER_BYTES_PER_TOKEN_ID: Final = 570
TRITON_PROCESS_BYTES: Final = 72 * MIB
"""tritonserver, its launcher and its guardian."""
PAGE_BYTES: Final = 4096
"""The system gives memory by whole pages: to a slot's every layer, part and head one at least."""
LOGIT_COPIES: Final = 2
"""The runner's buffer and the sampler's working copy (``engine/sampler.py``)."""
ARENA_SLACK: Final = 1.0
"""ONNX Runtime's arena grows by doubling, so up to as much again as it holds lies idle (``bfc_arena.cc``)."""
CUDA_CONTEXT_BYTES: Final = 512 * MIB
"""A CUDA context with the kernels of ONNX Runtime or TensorRT; an estimate, for none has been measured here."""
CUDA_WORKSPACE_BYTES: Final = 32 * MIB
"""cuBLAS's workspace on Hopper, its largest (cuBLAS documentation, cublasSetWorkspace)."""
