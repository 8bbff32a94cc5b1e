"""A decoder's layers one by one: two graphs run over the same texts, and their inner tensors compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fathom_export.quality import layers as layer_errors
from fathom_export.quality.decoder_graph import DecoderGraph
from fathom_server.engine.settings import LOGITS, GraphDescription

_LM_HEAD: Final = "lm_head"


def compare_decoder_layers(
    paths: tuple[Path, Path],
    reference: GraphDescription,
    tested: GraphDescription,
    options: Mapping[str, str],
    texts: Sequence[Sequence[int]],
) -> list[layer_errors.LayerError]:
    """Each layer's error of the second graph, given the first's inner tensors; empty where they share no names."""
    import onnx

    reference_path, tested_path = paths
    ours, theirs = (
        layer_errors.stream_points(onnx.load(path, load_external_data=False).graph, LOGITS, _LM_HEAD) for path in paths
    )
    points = layer_errors.common_points(ours, theirs)
    if len(points) < 2:
        return []
    reference_graph = DecoderGraph(
        reference_path.parent, reference, {}, content=layer_errors.exposed(reference_path, points)
    )
    whole = DecoderGraph(tested_path.parent, tested, options, content=layer_errors.exposed(tested_path, points))
    types = whole.output_types()
    content = layer_errors.cut(tested_path, points, types)
    isolated = DecoderGraph(tested_path.parent, tested, options, content=content)
    comparison = layer_errors.LayerComparison(points, types)
    for text in texts:
        runs = (_on(graph, text) for graph in (reference_graph, whole, isolated))
        comparison.add(*runs)
    return comparison.errors()


def _on(graph: DecoderGraph, text: Sequence[int]) -> layer_errors.RunGraph:
    return lambda outputs, given: graph.run(text, range(len(text)), outputs, given)
