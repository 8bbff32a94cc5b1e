"""The KV cache: one slot a request, slots side by side so that a batch of them is one tensor."""

import numpy as np
import numpy.typing as npt

from fathom_server.engine.settings import GraphDescription


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
