"""What the client gives back, values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's log-probability (natural logarithm), and the likeliest tokens in its place, the likeliest first.

    They are the model's own, before temperature and whatever else chooses. A prompt's first token has none, and the
    likeliest tokens have no others. ``token_bytes`` is what the token writes, UTF-8 or a part of it; empty where the
    server does not tell.
    """

    token_id: int
    logprob: float | None
    top: "tuple[TokenLogprob, ...]" = ()
    token_bytes: bytes = b""


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A part of an answer: its text, its tokens and their number; at the end of the answer the ``finish_reason``.

    Text and tokens need not match: text is held back until it is certain, so a chunk may have tokens and no text.
    Where several answers stream together, ``index`` says which one this belongs to. ``logprobs``, one a token, are
    there if they were asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    num_output_tokens: int
    finish_reason: str | None
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class GenerationChoice:
    """One of the answers to a prompt. ``logprobs``, one a token, are there if they were asked for."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...] | None = None

    @property
    def cumulative_logprob(self) -> float | None:
        """The sum of the tokens' log-probabilities, if they were asked for."""
        return None if self.logprobs is None else sum(each.logprob or 0.0 for each in self.logprobs)


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole answer. ``finish_reason`` is ``"stop"`` or ``"length"``; numbers of tokens are the server's.

    Of several answers (``n``) ``choices`` holds all; ``text``, ``token_ids`` and ``finish_reason`` are those of the
    first, ``num_output_tokens`` counts all. ``prompt_logprobs``, one a token of the prompt, are there if they were
    asked for. ``cascade`` is what a cascade tells of an answer: which of its models gave it, why, and both costs.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    num_input_tokens: int
    num_output_tokens: int
    model: str
    request_id: str
    choices: tuple[GenerationChoice, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    cascade: Mapping[str, Any] | None = None

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """The first answer's log-probabilities, one a token, if they were asked for."""
        return self.choices[0].logprobs if self.choices else None


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """``vectors``: float32 [texts, dimension], in the order of the texts; ``num_input_tokens``: one number a text."""

    vectors: "npt.NDArray[np.float32]"
    num_input_tokens: tuple[int, ...]
    model: str

    def rows(self) -> "Iterator[Embeddings]":
        """Each text's own, with vectors of [1, dimension]."""
        for row, count in enumerate(self.num_input_tokens):
            yield Embeddings(self.vectors[row : row + 1], (count,), self.model)


@dataclass(frozen=True, slots=True, eq=False)
class Rerank:
    """``scores``: float32 [documents], in the order of the documents, in the model's own scale; higher is better.

    ``num_input_tokens`` is one number a pair.
    """

    scores: "npt.NDArray[np.float32]"
    num_input_tokens: tuple[int, ...]
    model: str

    def rows(self) -> "Iterator[Rerank]":
        """Each document's own, with scores of [1]."""
        for row, count in enumerate(self.num_input_tokens):
            yield Rerank(self.scores[row : row + 1], (count,), self.model)

    @property
    def order(self) -> tuple[int, ...]:
        """Positions of the documents, the best first; equal ones as they were given."""
        return tuple((-self.scores).argsort(kind="stable").tolist())


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """``scores``: float32 [texts, labels], a probability for each of ``labels``; ``num_input_tokens``: one a text.

    Of a model that gives one label a text they add up to 1 in each row; of one that gives any number they do not.
    """

    scores: "npt.NDArray[np.float32]"
    labels: tuple[str, ...]
    num_input_tokens: tuple[int, ...]
    model: str

    def rows(self) -> "Iterator[Classification]":
        """Each text's own, with scores of [1, labels]."""
        for row, count in enumerate(self.num_input_tokens):
            yield Classification(self.scores[row : row + 1], self.labels, (count,), self.model)

    @property
    def top_labels(self) -> tuple[str, ...]:
        """The most probable label of each text."""
        return tuple(self.labels[best] for best in self.scores.argmax(axis=1).tolist())


@dataclass(frozen=True, slots=True)
class Tokenization:
    """A prompt as the model reads it: its token ids, those that the tokenizer or the chat template adds among them."""

    token_ids: tuple[int, ...]
    model: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model in the server's repository.

    ``state`` is Triton's: ``READY``, ``UNAVAILABLE``, ``LOADING``, ``UNLOADING``, or empty for one that was never
    loaded; ``reason`` says why it is not ready.
    """

    name: str
    version: str
    state: str
    reason: str

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        return self.state == "READY"


@dataclass(frozen=True, slots=True)
class Readiness:
    """How far a server is, as ``wait_until_ready`` tells while it waits.

    ``waited_s``: seconds since the waiting began. ``models``: those of the repository, empty as long as no server
    answers. ``reason``: why it is not ready, None when it is.
    """

    waited_s: float
    models: tuple[ModelInfo, ...]
    reason: str | None


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """A server's name, version and protocol extensions."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """A model's input or output: name, KServe datatype, shape with -1 for a size that each request chooses."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """How a model is served, from its config.pbtxt.

    ``platform`` is ``"ensemble"`` for one that is made of others, else mostly empty; ``backend`` what runs it.
    ``max_batch_size`` 0 is a model without a batch dimension. A request to a model that ``is_decoupled`` has any number
    of responses.
    """

    name: str
    platform: str
    backend: str
    max_batch_size: int
    is_decoupled: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A model's versions, platform, inputs and outputs."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
