"""Where one answer stands in its grammar: which tokens may come next, and which must."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from fathom_server.engine.grammar.vocabulary import FirstTokens
from fathom_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_FORCED: Final = 64
"""Most tokens that ``forced`` gives at once; more come after these."""


class Matcher:
    """One answer's place in its grammar, held by the request that the answer is for.

    Safe to use from several threads, which wait for one another. A mask is int32 [ceil(vocabulary / 32)], token j in
    bit j % 32 of word j // 32. Where the grammar needs more work at some place than one request may cost, ``error``
    says so from then on, nothing is allowed or forced, and the answer cannot end: its request has failed.
    """

    def __init__(
        self, matcher: "LLMatcher", eos_token_ids: frozenset[int], vocabulary: int, first_tokens: FirstTokens | None
    ) -> None:
        self.words = mask_words(vocabulary)
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._eos_token_ids = eos_token_ids
        self._first_tokens = first_tokens
        self._is_first = True
        self._consumed = 0
        self._ended = False
        self._lock = threading.Lock()

    def masks(self, drafts: Sequence[int], out: npt.NDArray[np.int32]) -> int:
        """Which tokens are allowed now and after each draft in turn.

        ``out`` is int32 [at least len(drafts) + 1, ceil(vocabulary / 32)], C-contiguous; row 0 is for the token that
        follows those accepted, row i for the one after ``drafts[i - 1]``. Returns how many rows are filled: a draft
        that is not allowed, or that ends the answer, ends them. The matcher stands afterwards where it stood. Where
        it has failed, one row is filled, and it allows nothing.
        """
        if out.dtype != np.int32 or out.ndim != 2 or out.shape[1] != self.words or not out.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous int32 [rows, {self.words}], not {out.dtype} {list(out.shape)}")
        if out.shape[0] < len(drafts) + 1:
            raise ValueError(f"out has {out.shape[0]} rows; {len(drafts)} drafts need {len(drafts) + 1}")
        with self._lock:
            accepted, start = 0, (self._consumed, self._is_first)
            self._fill(out[0])
            for draft in drafts:
                if draft in self._eos_token_ids or not allows(out[accepted], draft) or not self._consume(draft):
                    break
                accepted += 1
                self._fill(out[accepted])
            if not self._has_failed():
                self._roll_back(*start)
                return accepted + 1
            out[0] = 0
            return 1

    def advance(self, token: int) -> None:
        """Accept the answer's next token, which the mask allowed; the token that ends the answer included.

        Raises ValueError for a token that the grammar does not allow.
        """
        with self._lock:
            if self._ended:
                raise ValueError(f"token {token} comes after the end of the answer")
            if token in self._eos_token_ids and not self._has_failed():
                if not self._matcher.is_accepting():
                    raise ValueError(f"token {token} ends the answer where the grammar does not")
                self._ended = True
            elif not self._consume(token) and not self._has_failed():
                raise ValueError(f"token {token} is not allowed here; accept only what the mask allows")

    def forced(self) -> list[int]:
        """The tokens that must come now, one after another: each is the only one that its mask allows.

        Empty where there is a choice. At most ``MAX_FORCED``; the tokens that end the answer are not among them.
        """
        with self._lock:
            tokens: list[int] = []
            if self._is_first and self._first_tokens is not None:
                return tokens  # with and without a space before it
            start = (self._consumed, self._is_first)
            while len(tokens) < MAX_FORCED and not self._ended and not self._matcher.is_stopped():
                now = self._matcher.compute_ff_tokens()
                if not now or not self._consume(now[0]):
                    break
                tokens.append(now[0])
            if self._has_failed():
                return []
            self._roll_back(*start)
            return tokens

    @property
    def can_end(self) -> bool:
        """Whether the answer may end here."""
        with self._lock:
            return self._ended or bool(self._matcher.is_accepting())

    @property
    def is_complete(self) -> bool:
        """Whether the answer must end here: nothing but the end can follow."""
        with self._lock:
            return self._ended or (self._matcher.is_stopped() and not self._has_failed())

    @property
    def error(self) -> InvalidRequestError | None:
        """Why the grammar cannot go on, if it cannot."""
        with self._lock:
            if not self._has_failed():
                return None
            return InvalidRequestError(
                "structured_outputs takes too much work at this place of the answer; make it simpler: "
                + told(self._matcher.get_error())
            )

    def _fill(self, row: npt.NDArray[np.int32]) -> None:
        if self._ended:
            row[:] = 0
        else:
            self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            if self._is_first and self._first_tokens is not None:
                self._first_tokens.allow(row)

    def _consume(self, token: int) -> bool:
        text: int | None = token
        if self._is_first and self._first_tokens is not None:
            text = self._first_tokens.as_shown(token)
        if text is not None:
            if not 0 <= text < self._vocabulary or self._matcher.try_consume_tokens([text]) != 1:
                return False
            self._consumed += 1
        self._is_first = False
        return True

    def _roll_back(self, consumed: int, is_first: bool) -> None:
        if self._consumed > consumed:
            self._matcher.rollback(self._consumed - consumed)
        self._consumed, self._is_first = consumed, is_first

    def _has_failed(self) -> bool:
        return bool(self._matcher.is_error())


def mask_words(vocabulary: int) -> int:
    """Words of 32 bits in a mask."""
    return -(-vocabulary // 32)


def allows(mask: npt.NDArray[np.int32], token: int) -> bool:
    """Whether a mask's row has a token's bit."""
    return 0 <= token < mask.shape[0] * 32 and bool((int(mask[token >> 5]) >> (token & 31)) & 1)


def told(message: str) -> str:
    """The library's reason in one line: a regular expression's own error where there is one, without any dump."""
    lines = [line.strip() for line in message.strip().splitlines()]
    reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = reasons[-1] if reasons else lines[0].partition(":  (")[0] if lines else "no reason is given"
    return said if len(said) <= 300 else said[:297] + "..."
