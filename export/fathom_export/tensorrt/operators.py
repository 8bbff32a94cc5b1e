"""Whether TensorRT's parser takes every operator of a graph, asked before anything is parsed for good."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fathom_export.errors import PlanError

_STANDARD_DOMAINS: Final = ("", "ai.onnx")
_LLM_OPERATORS: Final = ("TensorScatter", "Attention", "RotaryEmbedding", "RMSNormalization")
_ROWWISE_INT8: Final = ("MatMulInteger", "DynamicQuantizeLinear")
_MAX_LINES: Final = 20


@dataclass(frozen=True, slots=True)
class Refusal:
    """A node that the parser does not take, why, and what can be done."""

    operator: str
    node: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.operator} at {self.node}: {self.reason}; {self.remedy}"


def check_operators(trt: Any, builder: Any, graph: Path, messages: Any) -> None:
    """Raise PlanError listing operator, node, reason and remedy of each node that the parser refuses.

    Asking parses the graph into a network, so a network is made for the question alone.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False)
    network = new_network(trt, builder)
    parser = trt.OnnxParser(network, messages.logger)
    refusals = list(_unknown_operators(trt, parser, model))
    if not refusals and not parser.supports_model_v2(graph.read_bytes(), str(graph)):
        refusals = list(_refused_nodes(trt, parser, model))
    if refusals:
        shown = "".join(f"\n  {refusal}" for refusal in refusals[:_MAX_LINES])
        more = f"\n  and {len(refusals) - _MAX_LINES} more" if len(refusals) > _MAX_LINES else ""
        raise PlanError(f"TensorRT {trt.__version__} does not take {len(refusals)} nodes of {graph}:{shown}{more}")


def new_network(trt: Any, builder: Any) -> Any:
    """An empty strongly typed network: TensorRT 10 needs to be told, 11 has no other kind."""
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


def parser_errors(parser: Any) -> list[str]:
    """Everything that the parser found wrong, each with operator, node, code and place."""
    lines = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        where = f"{error.node_operator()} at {error.node_name()}" if error.node_operator() else "the graph"
        lines.append(f"{where}: {error.desc()} ({error.code().name}, {error.func()})")
    return lines


def _unknown_operators(trt: Any, parser: Any, model: Any) -> Iterator[Refusal]:
    """Nodes whose operator the parser does not know at all, whatever their inputs."""
    functions = {function.name for function in model.functions}
    known: dict[tuple[str, str], bool] = {}
    for node in _nodes(model.graph):
        key = (node.domain, node.op_type)
        if key not in known:
            standard = node.domain in _STANDARD_DOMAINS
            known[key] = node.op_type in functions or (standard and parser.supports_operator(node.op_type))
        if not known[key]:
            name = node.op_type if node.domain in _STANDARD_DOMAINS else f"{node.domain}.{node.op_type}"
            yield Refusal(name, node.name or "an unnamed node", "unknown to the parser", _remedy(trt, name))


def _refused_nodes(trt: Any, parser: Any, model: Any) -> Iterator[Refusal]:
    """Nodes of the subgraphs that the parser refuses, with its own words where it gives any."""
    said = {}
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        said[error.node()] = f"{error.desc()} ({error.code().name})"
    refused = {
        node
        for index in range(parser.num_subgraphs)
        if not parser.is_subgraph_supported(index)
        for node in parser.get_subgraph_nodes(index)
    }
    for index in sorted(refused | {node for node in said if 0 <= node < len(model.graph.node)}):
        node = model.graph.node[index]
        reason = said.get(index, "refused by the parser without a reason")
        yield Refusal(node.op_type, node.name or f"node {index}", reason, _remedy(trt, node.op_type))
    if not refused and not said:
        yield Refusal("the graph", "its whole", "refused by the parser without a reason", _remedy(trt, ""))


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, those of inner graphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _remedy(trt: Any, operator: str) -> str:
    if "." in operator:
        return "export with --dialect portable (an LLM) or --precision fp32 (an encoder), in standard operators only"
    if operator in _LLM_OPERATORS:
        return f"use TensorRT 10.15 or later (this is {trt.__version__})"
    if operator in _ROWWISE_INT8:
        return "export with --precision fp32; the plan brings its own precision"
    return "use a later TensorRT, or export with another --precision"
