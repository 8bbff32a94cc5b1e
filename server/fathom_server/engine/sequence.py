"""One answer being generated: its tokens, the blocks that hold their keys and values, and how it is sampled."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fathom_server.engine.answer_text import AnswerText
from fathom_server.engine.block_pool import ROOT
from fathom_server.engine.lanes import MAIN
from fathom_server.engine.request import Request
from fathom_server.engine.sampler import Choice, SequenceSampler
from fathom_server.engine.sampling_parameters import SamplingParameters

if TYPE_CHECKING:
    from fathom_server.engine.grammar import Matcher


@dataclass(slots=True, eq=False)
class Sequence:
    """Prompt and answer as one growing list, of which the first ``computed`` tokens stand in the cache.

    ``blocks`` hold them in order; the first ``kept`` of the blocks are known to the pool by content, the last of those
    as ``node``. ``lane`` says whose weights compute it. ``drafts`` are the tokens to be tried in the step that runs.
    """

    request: Request
    index: int
    token_ids: list[int]
    sampler: SequenceSampler
    text: AnswerText
    matcher: "Matcher | None" = None
    computed: int = 0
    cached: int = 0
    blocks: list[int] = field(default_factory=list)
    kept: int = 0
    node: int = ROOT
    lane: int = MAIN
    drafts: list[int] = field(default_factory=list)
    prompt_choices: list[Choice] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    ended: bool = False

    @property
    def id(self) -> tuple[int, int]:
        """Unique among all that the engine has ever run."""
        return self.request.arrival, self.index

    @property
    def root(self) -> int:
        """The node before its first block."""
        return ROOT - self.lane

    @property
    def sampling(self) -> SamplingParameters:
        """How its tokens are chosen."""
        return self.request.sampling

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def generated(self) -> int:
        """How many tokens the answer has so far."""
        return len(self.token_ids) - self.prompt_tokens

    @property
    def mean_logprob(self) -> float:
        """Log-probability of the answer over its length."""
        return self.cumulative_logprob / max(1, self.generated)

    @property
    def remaining(self) -> int:
        """Tokens to compute before the next can be chosen: 1 while decoding, more while in prefill."""
        return len(self.token_ids) - self.computed

    @property
    def is_decoding(self) -> bool:
        """Whether one token is all that is missing, behind at least one that was generated."""
        return self.remaining == 1 and len(self.token_ids) > self.prompt_tokens

    @property
    def wants_prompt_choices(self) -> bool:
        """Whether log-probabilities of its prompt are still to be computed; the first answer computes them for all."""
        return (
            self.index == 0
            and self.sampling.prompt_logprobs is not None
            and len(self.prompt_choices) < self.prompt_tokens - 1
        )

    @property
    def rank(self) -> tuple[int, int, int]:
        """Who goes first among sequences."""
        return (*self.request.rank, self.index)

    def uniform(self, position: int) -> float:
        """The random number in [0, 1) that the sampler uses at an output position."""
        return self.sampler.uniform(position)
