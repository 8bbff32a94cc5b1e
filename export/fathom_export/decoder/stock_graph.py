"""A decoder as ``model.onnx``: rows of a batch, in the operators of one dialect."""

import onnx_ir as ir

from fathom_export.decoder.architecture import DecoderArchitecture
from fathom_export.decoder.dialect import BATCH, LOGIT_ROWS, SEQUENCE, Dialect, capped_logits, scaled_embedding
from fathom_export.decoder.graph_writer import GraphWriter
from fathom_export.decoder.projections import Projections, Rows
from fathom_export.decoder.weights import DecoderWeights
from fathom_server.engine.settings import INPUT_IDS, LOGIT_POSITIONS, LOGITS


def write_stock_graph(
    graph: GraphWriter,
    architecture: DecoderArchitecture,
    weights: DecoderWeights,
    projections: Projections,
    dialect: Dialect,
) -> None:
    """The whole graph, in the operators of one dialect.

    Only keys and values of every position are needed later, so from the last layer's attention on, only the positions
    that get logits are computed.
    """
    input_ids = graph.input(INPUT_IDS, ir.DataType.INT64, (BATCH, SEQUENCE))
    logit_positions = graph.input(LOGIT_POSITIONS, ir.DataType.INT64, (BATCH, LOGIT_ROWS))
    dialect.declare_inputs()
    projections.begin_rows("rows", input_ids)
    residual = projections.embed("embedding", weights.embedding(), input_ids)
    residual = scaled_embedding(graph, architecture, residual)
    first = weights.attention_norm(0)
    normed = residual if first is None else dialect.norm("layer.0.attention_norm", residual, first)
    for layer in range(architecture.layers):
        name = f"layer.{layer}"
        is_last = layer == architecture.layers - 1
        prepared = projections.prepare(f"{name}.attention.input", Rows(normed), architecture.hidden)
        context = dialect.cached_attention(f"{name}.attention", layer, prepared)
        if is_last:
            projections.begin_rows("logit_rows", logit_positions)
            context = graph.rows_at(f"{name}.attention.logit_rows", context, logit_positions)
            residual = graph.rows_at(f"{name}.residual.logit_rows", residual, logit_positions)

        output = f"{name}.attention.o_proj"
        columns = architecture.heads * architecture.head_dim
        prepared = projections.prepare(f"{output}.input", Rows(context), columns)
        delta = projections.true_values(output, projections.apply(output, prepared, weights.attention_output(layer)))
        residual, normed = dialect.next_input(
            (f"{name}.attention_output_norm", weights.attention_output_norm(layer)),
            (f"{name}.mlp_norm", weights.mlp_norm(layer)),
            residual,
            delta,
        )

        prepared = projections.prepare(f"{name}.mlp.input", Rows(normed), architecture.hidden)
        gate_linear, up_linear = weights.gate_and_up(layer)
        gate = projections.apply(f"{name}.mlp.gate_proj", prepared, gate_linear)
        up = projections.apply(f"{name}.mlp.up_proj", prepared, up_linear)
        activated = dialect.activation(f"{name}.mlp.activation", projections.true_values(f"{name}.mlp.gate_proj", gate))
        gated = Rows(graph.node(f"{name}.mlp.gated", "Mul", activated, up.value), up.scale)
        down = f"{name}.mlp.down_proj"
        prepared = projections.prepare(f"{down}.input", gated, architecture.intermediate)
        delta = projections.true_values(down, projections.apply(down, prepared, weights.down(layer)))
        residual, normed = dialect.next_input(
            (f"{name}.mlp_output_norm", weights.mlp_output_norm(layer)),
            ("final_norm", weights.final_norm())
            if is_last
            else (f"layer.{layer + 1}.attention_norm", weights.attention_norm(layer + 1)),
            residual,
            delta,
        )
    logits = projections.lm_head("lm_head", weights.lm_head(), normed, logit_positions)
    logits = capped_logits(graph, architecture, logits)
    graph.output(logits, LOGITS, ir.DataType.FLOAT, (BATCH, LOGIT_ROWS, architecture.vocabulary))
