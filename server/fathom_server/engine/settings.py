"""What the engine is told about its model: ``engine.json`` beside the weights, written by export, read here."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from fathom_server.errors import SettingsError
from fathom_server.sizing.shape import StoredModel

ENGINE_FILE: Final = "engine.json"
GRAPH_FILE: Final = "model.onnx"
NATIVE_GRAPH_FILE: Final = "model.native.onnx"
"""The same weights in Fathom's own operators, beside ``GRAPH_FILE``."""

SAMPLING_GRAPH_FILE: Final = "model.sampling.onnx"
"""Reduces logits on the device (cuda dialect), beside ``GRAPH_FILE``."""

Dialect = Literal["cpu", "portable", "cuda"]
KvDtype = Literal["int8", "float16", "float32"]
SpeculationMethod = Literal["none", "prompt_lookup", "draft"]

MAX_DRAFT_TOKENS: Final = 32

# ---- names of a decoder graph's inputs and outputs ----
INPUT_IDS: Final = "input_ids"  # int64 [batch, sequence]
LOGIT_POSITIONS: Final = "logit_positions"  # int64 [batch, k]: which positions of the sequence get logits; k may be 0
SEQLENS_K: Final = "seqlens_k"  # cpu: int32 [batch], length of each row after this step, less one
TOTAL_SEQUENCE_LENGTH: Final = "total_sequence_length"  # cpu: int32 scalar, the longest row after this step
POSITION_IDS: Final = "position_ids"  # portable: int64 [batch, sequence]
WRITE_INDICES: Final = "write_indices"  # portable: int64 [batch], where in the cache each row's new keys begin
LOGITS: Final = "logits"  # float32 [batch, k, vocabulary]

# ---- of a native graph: one row a token, of B sequences laid end to end; ids int64 [rows], logits [k, vocabulary] ----
LOGIT_ROWS: Final = "logit_rows"  # int64 [k]: which rows get logits; k may be 0
ROW_STARTS: Final = "row_starts"  # int32 [B + 1]: where each sequence's rows begin, and the end of the last
PAST_LENGTHS: Final = "past_lengths"  # int32 [B]: tokens of each sequence that are in the cache already
BLOCK_TABLES: Final = "block_tables"  # int32 [B, M]: blocks of the cache that hold each sequence's tokens
KV_CACHE: Final = "kv_cache"  # uint8 [layers, blocks, bytes of a block]: written in place
# ---- of a cuda graph: a native one's, but a cache of float16 [blocks, block_tokens, kv_heads, head_dim] a layer ----
ATTENTION_BOUNDS: Final = "attention_bounds"  # int32 [3], on the host: most new tokens, longest at most, at least
# ---- of the sampling graph ----
TOP_LOGITS: Final = "top_logits"  # float32 [k, 2 × TOP_TOKENS + 1]: largest logits, their ids, the sum of all
TOP_TOKENS: Final = 64
# ---- and their metadata ----
BLOCK_TOKENS: Final = "block_tokens"
KV_DTYPE: Final = "kv_dtype"


def past_name(layer: int, part: Literal["key", "value"]) -> str:
    """Cache input of a layer: [batch, kv_heads, max_context, head_dim]."""
    return f"past.{layer}.{part}"


def present_name(layer: int, part: Literal["key", "value"]) -> str:
    """Cache output of a layer: the same shape, bound to the same memory as the input."""
    return f"present.{layer}.{part}"


@dataclass(frozen=True, slots=True)
class GraphDescription:
    """A decoder graph's form: what a runner must know to feed it.

    ``kv_dtype`` is a numpy dtype name. ``max_context`` is the cache length in tokens: static in the portable dialect,
    an upper bound in the others.
    """

    dialect: Dialect
    precision: str
    layers: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_context: int
    kv_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dialect not in get_args(Dialect):
            raise SettingsError(f"dialect {self.dialect!r} is unknown; valid: {', '.join(get_args(Dialect))}")
        for name in ("layers", "kv_heads", "head_dim", "vocabulary", "max_context"):
            if getattr(self, name) < 1:
                raise SettingsError(f"graph.{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine takes on at once.

    ``max_batch`` sequences run together, ``max_queue`` requests wait; a prompt and its answer together take at most
    ``max_context`` tokens; a step computes at most ``prefill_chunk`` tokens of prompts; ``default_max_tokens`` is for
    requests that name none; ``timeout_s`` is the deadline of requests that bring none, ``queue_timeout_s`` how long a
    request may wait for its turn, 0 for as long as its deadline allows; ``threads`` is ONNX Runtime's, 0 for every
    core. ``kv_cache_tokens`` is how many tokens of all sequences the cache holds, 0 for ``max_batch`` ×
    ``max_context``, and ``kv_cache_dtype`` what keys and values are kept in: the one of the native and the cuda graph,
    the other of the native graph alone, for the others' cache is ``max_batch`` slots of the graph's own type.
    ``stream_responses_per_s`` bounds the streamed responses of all requests: where more tokens come, those of one
    answer travel together; 0 for no bound.
    """

    max_batch: int = 16
    max_queue: int = 256
    max_context: int = 2048
    prefill_chunk: int = 128
    default_max_tokens: int = 256
    timeout_s: float = 600.0
    queue_timeout_s: float = 0.0
    threads: int = 0
    kv_cache_tokens: int = 0
    kv_cache_dtype: KvDtype = "int8"
    stream_responses_per_s: int = 300

    def __post_init__(self) -> None:
        if self.kv_cache_dtype not in get_args(KvDtype):
            raise SettingsError(
                f"limits.kv_cache_dtype is {self.kv_cache_dtype!r}; valid: {', '.join(get_args(KvDtype))}"
            )
        if 0 < self.kv_cache_tokens < self.max_context:
            raise SettingsError(
                f"limits.kv_cache_tokens is {self.kv_cache_tokens}, but one sequence may take max_context = "
                f"{self.max_context} tokens; raise the one or lower the other"
            )
        for name in ("max_batch", "max_context", "prefill_chunk", "default_max_tokens"):
            if getattr(self, name) < 1:
                raise SettingsError(f"limits.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("max_queue", "threads", "kv_cache_tokens", "stream_responses_per_s"):
            if getattr(self, name) < 0:
                raise SettingsError(f"limits.{name} is {getattr(self, name)}; it must not be negative")
        if not self.timeout_s > 0:
            raise SettingsError(f"limits.timeout_s is {self.timeout_s}; it must be above 0 seconds")
        if not self.queue_timeout_s >= 0:
            raise SettingsError(f"limits.queue_timeout_s is {self.queue_timeout_s}; it must be 0 (no limit) or more")


@dataclass(frozen=True, slots=True)
class SpeculationSettings:
    """How tokens are guessed ahead, to be tried in the same step; answers are the same with and without.

    ``draft`` names the draft model of the method ``draft``: another model of the repository, the newest of its versions
    or the one of a folder such as ``chat_small/1``. At most ``max_draft_tokens`` are guessed at once; how many, and
    whether any, the engine chooses by what pays.
    """

    method: SpeculationMethod = "none"
    draft: str = ""
    max_draft_tokens: int = 8

    def __post_init__(self) -> None:
        if self.method not in get_args(SpeculationMethod):
            raise SettingsError(
                f"speculation.method is {self.method!r}; valid: {', '.join(get_args(SpeculationMethod))}"
            )
        if not 1 <= self.max_draft_tokens <= MAX_DRAFT_TOKENS:
            raise SettingsError(
                f"speculation.max_draft_tokens is {self.max_draft_tokens}; it must be between 1 and {MAX_DRAFT_TOKENS}"
            )
        if self.method == "draft" and not self.draft:
            raise SettingsError("speculation.method is 'draft', but speculation.draft names no model; name one")
        if self.method != "draft" and self.draft:
            raise SettingsError(
                f"speculation.draft is {self.draft!r}, but speculation.method is {self.method!r}; set that to 'draft', "
                "or leave draft out"
            )


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Everything in ``engine.json``.

    ``fast_lane`` is the precision of a second graph of the same weights, in the folder of that name below this one,
    with an ``engine.json`` of its own; empty where there is one graph. ``stored`` is for the arithmetic of memory; None
    where the export is of a version that did not say it.
    """

    graph: GraphDescription
    limits: EngineLimits = field(default_factory=EngineLimits)
    eos_token_ids: tuple[int, ...] = ()
    speculation: SpeculationSettings = field(default_factory=SpeculationSettings)
    fast_lane: str = ""
    stored: StoredModel | None = None

    def __post_init__(self) -> None:
        if self.limits.max_context > self.graph.max_context:
            raise SettingsError(
                f"limits.max_context is {self.limits.max_context}, but the graph's cache holds "
                f"{self.graph.max_context}; lower the limit or export with a larger max_context"
            )

    def save(self, folder: Path) -> None:
        """Write ``engine.json`` into a version's folder."""
        (folder / ENGINE_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``engine.json`` from a version's folder; raises SettingsError naming the file and what is wrong."""
        path = folder / ENGINE_FILE
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                graph=GraphDescription(**raw["graph"]),
                limits=EngineLimits(**raw["limits"]),
                eos_token_ids=tuple(raw["eos_token_ids"]),
                speculation=SpeculationSettings(**raw.get("speculation", {})),
                fast_lane=str(raw.get("fast_lane", "")),
                stored=StoredModel.from_json(raw.get("stored")),
            )
        except FileNotFoundError as error:
            raise SettingsError(f"{path} is missing; export the model again with fathom-export") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SettingsError(
                f"{path} cannot be read ({error!r}); export the model again with fathom-export"
            ) from error
