"""A checkpoint's shape for the arithmetic of memory and speed, once its weights were held against its config.json."""

import math

from fathom_export.decoder.architecture import DecoderArchitecture
from fathom_export.decoder.checkpoint import Checkpoint
from fathom_server.sizing.shape import DecoderShape


def decoder_shape(architecture: DecoderArchitecture, checkpoint: Checkpoint) -> DecoderShape:
    """The shape of a checkpoint of which only headers were read.

    Raises CheckpointError where a tensor is missing or its header says another size than config.json,
    UnsupportedArchitectureError where weights are left over.
    """
    from fathom_export.decoder.weights import DecoderWeights

    part = checkpoint.text_part() if architecture.is_part else checkpoint
    weights = DecoderWeights(part, architecture)
    weights.embedding()
    if not architecture.tied_embeddings:
        weights.lm_head()
    weights.final_norm()
    for layer in range(architecture.layers):
        weights.attention_norm(layer)
        weights.query_key_value(layer)
        if architecture.qk_norm is not None:
            weights.query_key_norm(layer, "q")
            weights.query_key_norm(layer, "k")
        weights.attention_output(layer)
        weights.attention_output_norm(layer)
        weights.mlp_norm(layer)
        weights.gate_and_up(layer)
        weights.down(layer)
        weights.mlp_output_norm(layer)
    weights.refuse_unused()
    windows = tuple(form.window or 0 for form in architecture.layer_forms)
    return DecoderShape(
        hidden=architecture.hidden,
        layers=architecture.layers,
        heads=architecture.heads,
        kv_heads=architecture.kv_heads,
        head_dim=architecture.head_dim,
        intermediate=architecture.intermediate,
        vocabulary=architecture.vocabulary,
        tied_embeddings=architecture.tied_embeddings,
        vector_values=sum(math.prod(tensor.shape) for tensor in part.tensors.values() if len(tensor.shape) == 1),
        windows=windows if any(windows) else (),
    )
