"""The KV cache in a GPU's memory, of the same form as ``SlotCache``."""

from fathom_server.engine.runner.cuda import ALIGNMENT_BYTES, CudaStream
from fathom_server.engine.settings import GraphDescription
from fathom_server.errors import SettingsError

_PARTS = ("key", "value")


class DeviceSlotCache:
    """Keys and values of ``slots`` requests of up to ``max_context`` tokens each, in one piece of device memory.

    A layer's keys, and its values, are [slots, kv_heads, max_context, head_dim] of ``itemsize`` bytes a number. They
    begin as zeros, for what no token has written takes part in attention with weight 0, and 0 × NaN is NaN. Raises
    SettingsError where TensorRT could not address a slot, DeviceError where the GPU has no room.
    """

    def __init__(self, cuda: CudaStream, graph: GraphDescription, slots: int, max_context: int, itemsize: int) -> None:
        self.slots = slots
        self.max_context = max_context
        self._cuda = cuda
        self._layers = graph.layers
        self._kv_heads = graph.kv_heads
        self._token_bytes = graph.head_dim * itemsize
        self._head_bytes = max_context * self._token_bytes
        self._slot_bytes = graph.kv_heads * self._head_bytes
        fault = slot_fault(graph.kv_heads, max_context, self._token_bytes)
        if fault is not None:
            raise SettingsError(fault)
        size = self._layers * len(_PARTS) * slots * self._slot_bytes
        self._address = cuda.allocate(size)
        cuda.zero(self._address, size)

    def address(self, layer: int, part: str, slot: int) -> int:
        """Where a slot's keys or values of a layer begin; the slots after it follow without a gap."""
        tensor = layer * len(_PARTS) + _PARTS.index(part)
        return self._address + (tensor * self.slots + slot) * self._slot_bytes

    def move(self, source: int, destination: int, length: int) -> None:
        """Copy the first ``length`` tokens of one slot to another, which loses what it held."""
        for layer in range(self._layers):
            for part in _PARTS:
                self._cuda.copy_rows(
                    self.address(layer, part, destination),
                    self.address(layer, part, source),
                    pitch=self._head_bytes,
                    width=length * self._token_bytes,
                    rows=self._kv_heads,
                )

    def bytes_per_token(self) -> int:
        """What one token of one request takes in all layers."""
        return self._layers * len(_PARTS) * self._kv_heads * self._token_bytes


def slot_fault(kv_heads: int, max_context: int, token_bytes: int) -> str | None:
    """Why slots of this form cannot lie side by side on the GPU, and what to do; None if they can.

    Every slot's address must be a multiple of 256 bytes. ``token_bytes`` is one token's of one head.
    """
    unit = kv_heads * token_bytes
    if unit * max_context % ALIGNMENT_BYTES == 0:
        return None
    step = next(step for step in range(1, ALIGNMENT_BYTES + 1) if unit * step % ALIGNMENT_BYTES == 0)
    return (
        f"max_context is {max_context}, but a slot of this model begins at a multiple of {ALIGNMENT_BYTES} bytes only "
        f"if it is a multiple of {step}; export again with --max-context {max(step, max_context // step * step)}"
    )
