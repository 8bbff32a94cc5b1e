"""How long a step takes by the bytes that it moves and the operations that it does (Williams et al., CACM 2009).

A GPU moves and computes at the same time, so that the slower of the two counts (and launches beside them). A CPU's
kernels were measured by ``fathom-fit calibrate``: seconds a weight by rows and by how much memory all weights take, and
seconds an operation of attention; these are interpolated and added up.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from fathom_server.sizing.form import EngineForm
from fathom_server.sizing.shape import DecoderShape

Resource = Literal["weights' bandwidth", "matrix products", "cache's bandwidth", "attention", "overhead"]

_NODES_PER_LAYER: Final = 5
_HALF: Final = 2


@dataclass(frozen=True, slots=True)
class StepLoad:
    """One step: ``sequences`` of ``past`` cached tokens each get ``new`` ones; ``logits`` rows get logits."""

    sequences: int
    past: float
    new: int
    logits: int

    @property
    def rows(self) -> int:
        """Token rows of the step."""
        return self.sequences * self.new


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step by resource. ``seconds`` is their sum, or less where some of them work at the same time."""

    parts: Mapping[Resource, float]
    seconds: float

    @property
    def binds(self) -> Resource:
        """The resource that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])


class Machine(Protocol):
    """Something that computes steps of a decoder."""

    def step(self, shape: DecoderShape, form: EngineForm, load: StepLoad) -> StepTime:
        """The time of one step."""
        ...


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU by its data sheet: bytes a second, and dense operations a second by what the products are computed in.

    ``bandwidth_share`` and ``compute_share`` are what of both is reached; ``launch_s`` is what a step takes beside.
    Where ``ways`` GPUs share a model by tensor parallelism, a shape is one GPU's part of it (``DecoderShape.shard``),
    and two sums of vectors a layer go over links of ``link_bytes_per_s`` each way.
    """

    name: str
    bandwidth_bytes_per_s: float
    operations_per_s: Mapping[str, float]
    bandwidth_share: float = 1.0
    compute_share: float = 1.0
    launch_s: float = 0.0
    ways: int = 1
    link_bytes_per_s: float = 0.0

    def step(self, shape: DecoderShape, form: EngineForm, load: StepLoad) -> StepTime:
        """See ``Machine.step``."""
        bandwidth = self.bandwidth_bytes_per_s * self.bandwidth_share
        half = self.operations_per_s["fp16"] * self.compute_share
        matrix_rate = self.operations_per_s[form.precision] * self.compute_share
        layers = shape.layers * sum(form.product_bytes(product) for product in shape.layer_products)
        weights_s = (layers + form.head_bytes(shape)) / bandwidth
        products_s = 2 * load.rows * shape.layer_weights / matrix_rate
        products_s += 2 * load.logits * shape.lm_head.weights / half
        cache_s = _cache_bytes(shape, form, load) / bandwidth
        attention_s = _attention_operations(shape, load) / half
        overhead_s = self.launch_s + self._exchange_s(shape, load)
        parts: dict[Resource, float] = {
            "weights' bandwidth": weights_s,
            "matrix products": products_s,
            "cache's bandwidth": cache_s,
            "attention": attention_s,
            "overhead": overhead_s,
        }
        return StepTime(parts, max(weights_s, products_s) + max(cache_s, attention_s) + overhead_s)

    def _exchange_s(self, shape: DecoderShape, load: StepLoad) -> float:
        """Two all-reduces a layer of float16 vectors, each GPU sending 2 · (n - 1) / n of them (ring)."""
        if self.ways == 1:
            return 0.0
        size = 2 * shape.layers * load.rows * shape.hidden * _HALF
        return size * 2 * (self.ways - 1) / self.ways / self.link_bytes_per_s


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds measured at some numbers, ascending; between them straight lines over logarithms."""

    at: tuple[float, ...]
    seconds: tuple[float, ...]

    def __call__(self, number: float) -> float:
        """Seconds at any number from 1 on; beyond the last it goes on as a straight line through 0."""
        if number >= self.at[-1]:
            return self.seconds[-1] * number / self.at[-1]
        if number <= self.at[0]:
            return self.seconds[0]
        place = bisect_right(self.at, number)
        begin, end = self.at[place - 1], self.at[place]
        share = (math.log(number) - math.log(begin)) / (math.log(end) - math.log(begin))
        low, high = math.log(self.seconds[place - 1]), math.log(self.seconds[place])
        return math.exp(low + share * (high - low))


@dataclass(frozen=True, slots=True)
class ProductRates:
    """A precision's matrix products: seconds a weight by rows, at working sets of so many bytes, ascending."""

    working_sets: tuple[float, ...]
    curves: tuple[Curve, ...]

    def seconds_per_weight(self, rows: float, weight_bytes: float) -> float:
        """Between two working sets by their logarithm; outside of them as at the nearest."""
        sets = self.working_sets
        if weight_bytes <= sets[0]:
            return self.curves[0](rows)
        if weight_bytes >= sets[-1]:
            return self.curves[-1](rows)
        place = bisect_right(sets, weight_bytes)
        share = math.log(weight_bytes / sets[place - 1]) / math.log(sets[place] / sets[place - 1])
        return (1 - share) * self.curves[place - 1](rows) + share * self.curves[place](rows)


@dataclass(frozen=True, slots=True)
class AttentionRates:
    """Seconds of attention: a byte of cache (``decode_byte``) and an operation with one new token a sequence.

    ``prefill`` is seconds an operation in a chunk of a prompt, reading included.
    """

    decode_byte: float
    decode: float
    prefill: float

    def seconds(self, operations: float, cache_bytes: float, *, is_decode: bool) -> float:
        """Of a whole step."""
        if is_decode:
            return operations * self.decode + cache_bytes * self.decode_byte
        return operations * self.prefill


@dataclass(frozen=True, slots=True)
class Processor:
    """A CPU as ``fathom-fit calibrate`` measured it, its rates by precision (products) and cache type (attention).

    ``node_s`` is what an operator takes whatever its sizes, ``step_s`` and ``row_s`` what the engine takes for a step
    and for each of its sequences beside the graph. ``bandwidth_bytes_per_s`` is that of one long read; it splits the
    time of products for the picture and for what binds, and decides no sum.
    """

    name: str
    bandwidth_bytes_per_s: float
    products: Mapping[str, ProductRates]
    attention: Mapping[str, AttentionRates]
    node_s: Mapping[str, float]
    step_s: float
    row_s: float

    def step(self, shape: DecoderShape, form: EngineForm, load: StepLoad) -> StepTime:
        """See ``Machine.step``."""
        rates, attention = self.products[form.precision], self.attention[form.cache_type]
        layers = shape.layers * sum(form.product_bytes(product) for product in shape.layer_products)
        head = form.head_bytes(shape)
        working_set = layers + head
        # the head has 8 bits where the layers have 4
        head_rates = self.products["int8"] if form.precision == "int4" else rates
        # from the last layer's attention on only the rows that get logits are computed
        products_s = 0.0
        for rows, count in _rows_of_products(shape, load):
            products_s += count * rates.seconds_per_weight(rows, working_set)
        if load.logits:
            products_s += shape.lm_head.weights * head_rates.seconds_per_weight(load.logits, working_set)
        weights_s = min(products_s, (layers + head) / self.bandwidth_bytes_per_s)
        cache_bytes = _cache_bytes(shape, form, load)
        attention_s = attention.seconds(_attention_operations(shape, load), cache_bytes, is_decode=load.new == 1)
        cache_s = min(attention_s, cache_bytes / self.bandwidth_bytes_per_s)
        nodes = shape.layers * _NODES_PER_LAYER + 1
        overhead_s = self.step_s + self.row_s * load.sequences + nodes * self.node_s[form.runner]
        parts: dict[Resource, float] = {
            "weights' bandwidth": weights_s,
            "matrix products": products_s - weights_s,
            "cache's bandwidth": cache_s,
            "attention": attention_s - cache_s,
            "overhead": overhead_s,
        }
        return StepTime(parts, products_s + attention_s + overhead_s)


def prefill_seconds(
    machine: Machine, shape: DecoderShape, form: EngineForm, prompt_tokens: int, chunk: int
) -> StepTime:
    """The time to compute one prompt alone, chunk by chunk; the last chunk gives its first token's logits."""
    parts: dict[Resource, float] = {}
    seconds, done = 0.0, 0
    while done < prompt_tokens:
        new = min(chunk, prompt_tokens - done)
        one = machine.step(shape, form, StepLoad(1, done, new, int(done + new == prompt_tokens)))
        seconds += one.seconds
        parts = {name: parts.get(name, 0.0) + value for name, value in one.parts.items()}
        done += new
    return StepTime(parts, seconds)


def decode_seconds(machine: Machine, shape: DecoderShape, form: EngineForm, sequences: int, context: float) -> StepTime:
    """The time of a step in which so many sequences of this mean context get a token each."""
    return machine.step(shape, form, StepLoad(sequences, context, 1, sequences))


def _rows_of_products(shape: DecoderShape, load: StepLoad) -> Sequence[tuple[int, int]]:
    """Rows and weights of the layers' products."""
    layer = shape.layer_products
    whole, qkv = sum(product.weights for product in layer), layer[0].weights
    before = (shape.layers - 1) * whole + qkv
    return ((load.rows, before), (load.logits, whole - qkv)) if load.logits else ((load.rows, before),)


def _attention_operations(shape: DecoderShape, load: StepLoad) -> float:
    """Multiplications and additions of scores and weighted sums; a new token sees those before it and itself."""
    seen = shape.seen_tokens(load.past + (load.new + 1) / 2)
    return 4 * load.rows * seen * shape.layers * shape.heads * shape.head_dim


def _cache_bytes(shape: DecoderShape, form: EngineForm, load: StepLoad) -> float:
    """Bytes of keys and values that are read once for each sequence, and written for each new token."""
    tokens = load.sequences * shape.seen_tokens(load.past + load.new)
    return tokens * form.cache_bytes_per_token(shape)
