"""The KV cache in main memory: slots side by side, or blocks that sequences share."""

import numpy as np
import numpy.typing as npt

from fathom_server.engine.settings import GraphDescription, KvDtype


class SlotCache:
    """Keys and values of ``slots`` requests of up to ``max_context`` tokens each.

    ``layers[i]`` is (key, value), each [slots, kv_heads, max_context, head_dim] of the graph's cache dtype. The memory
    is reserved here and taken from the system only as positions are first written, so a request pays for the tokens
    that its slot has ever held.
    """

    def __init__(self, graph: GraphDescription, slots: int, max_context: int) -> None:
        shape = (slots, graph.kv_heads, max_context, graph.head_dim)
        self.slots = slots
        self.max_context = max_context
        self.layers: list[tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]] = [
            (np.zeros(shape, dtype=graph.kv_dtype), np.zeros(shape, dtype=graph.kv_dtype)) for _ in range(graph.layers)
        ]

    def move(self, source: int, destination: int, length: int) -> None:
        """Copy the first ``length`` tokens of one slot to another, which loses what it held."""
        for key, value in self.layers:
            key[destination, :, :length] = key[source, :, :length]
            value[destination, :, :length] = value[source, :, :length]

    def bytes_per_token(self) -> int:
        """What one token of one request takes in all layers."""
        return sum(part.dtype.itemsize * part.shape[1] * part.shape[3] for layer in self.layers for part in layer)


class PagedCache:
    """Keys and values of all sequences in blocks of ``block_tokens`` tokens, which sequences may share.

    ``memory`` is uint8 [layers, blocks, bytes of a block], whose inside is the business of the operator that writes
    and reads it (``native/cache_layout.py``). As in ``SlotCache``, memory is taken as blocks are first written.
    """

    def __init__(self, graph: GraphDescription, blocks: int, block_tokens: int, kv_dtype: KvDtype) -> None:
        from fathom_server.native.cache_layout import block_bytes

        size = block_bytes(graph.kv_heads, graph.head_dim, block_tokens, kv_dtype)
        self.blocks = blocks
        self.block_tokens = block_tokens
        self.memory: npt.NDArray[np.uint8] = np.zeros((graph.layers, blocks, size), dtype=np.uint8)

    def bytes_per_token(self) -> int:
        """What one token of one sequence takes in all layers."""
        layers, _, size = self.memory.shape
        return layers * size // self.block_tokens
