"""What an answer must be, compiled for one model's vocabulary."""

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import numpy as np

from fathom_server.engine.grammar.matcher import Matcher, mask_words, told
from fathom_server.engine.grammar.source import grammar_source
from fathom_server.engine.grammar.vocabulary import FirstTokens, Speller, read_token_bytes
from fathom_server.engine.structured_output import StructuredOutput
from fathom_server.errors import InvalidRequestError
from fathom_server.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

CACHED_GRAMMARS: Final = 32
CACHED_CHARACTERS: Final = 1 << 18
"""Compiled grammars kept for the next request with the same structure: so many, and so much of their sources in all."""


class Grammar:
    """A structure compiled for one vocabulary; makes the matcher of each answer."""

    def __init__(
        self, start: "LLMatcher", eos_token_ids: frozenset[int], vocabulary: int, first_tokens: FirstTokens | None
    ) -> None:
        self._start = start
        self._eos_token_ids = eos_token_ids
        self._vocabulary = vocabulary
        self._first_tokens = first_tokens
        self._lock = threading.Lock()

    def matcher(self) -> Matcher:
        """A matcher at the beginning of an answer."""
        with self._lock:
            copy = self._start.deep_copy()
        return Matcher(copy, self._eos_token_ids, self._vocabulary, self._first_tokens)


class GrammarCompiler:
    """Compiles structures for one model. Safe to use from several threads.

    ``vocabulary`` is the model's, which may be larger than the tokenizer's: ids without a token are never allowed.
    The answer may end, by any of ``eos_token_ids``, exactly where its grammar may. Nothing is read or built before the
    first ``compile``.
    """

    def __init__(self, tokenizer: TextTokenizer, vocabulary: int, eos_token_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._eos_token_ids = eos_token_ids
        self._lock = threading.Lock()
        self._first_tokens: FirstTokens | None = None
        self._library_tokenizer: LLTokenizer | None = None
        self._grammars: OrderedDict[StructuredOutput, Grammar] = OrderedDict()

    def compile(self, wanted: StructuredOutput) -> Grammar:
        """The grammar of a structure, one of those used last or compiled now.

        Raises InvalidRequestError for what is no schema, regular expression or grammar, what asks for something that
        is not supported, what no text can satisfy, and what would take too much time or memory.
        """
        with self._lock:
            grammar = self._grammars.get(wanted)
            if grammar is not None:
                self._grammars.move_to_end(wanted)
                return grammar
            library_tokenizer = self._tokenizer_of_library()
        grammar = self._compiled(wanted, library_tokenizer)
        with self._lock:
            self._grammars[wanted] = grammar
            while self._holds_too_much():
                self._grammars.popitem(last=False)
        return grammar

    def _holds_too_much(self) -> bool:
        characters = sum(len(wanted.value) for wanted in self._grammars)
        return len(self._grammars) > CACHED_GRAMMARS or characters > CACHED_CHARACTERS

    def _tokenizer_of_library(self) -> "LLTokenizer":
        """The vocabulary in the form of the grammar library, built once; called with the lock held."""
        if self._library_tokenizer is None:
            from llguidance import LLTokenizer

            if not self._eos_token_ids or max(self._eos_token_ids) >= self._vocabulary:
                raise InvalidRequestError(
                    "structured output needs a model with an end token, and this one has none in its vocabulary; "
                    "export it again with eos_token_id in its config.json"
                )
            ends = sorted(self._eos_token_ids)
            tokens = read_token_bytes(self._tokenizer.tokenizer, self._vocabulary, self._eos_token_ids)
            self._first_tokens = FirstTokens(tokens.table) if tokens.strips_first_space else None
            speller = Speller(self._tokenizer.tokenizer, tokens, ends[0])
            self._library_tokenizer = LLTokenizer(speller, eos_token=ends)  # type: ignore[arg-type]
        return self._library_tokenizer

    def _compiled(self, wanted: StructuredOutput, library_tokenizer: "LLTokenizer") -> Grammar:
        from llguidance import LLMatcher

        start = LLMatcher(library_tokenizer, grammar_source(wanted), log_level=0, limits=_limits())
        if start.is_error():
            raise InvalidRequestError(f"structured_outputs.{wanted.kind}: {told(start.get_error())}")
        grammar = Grammar(start, self._eos_token_ids, self._vocabulary, self._first_tokens)
        self._check_start(wanted, grammar.matcher())
        return grammar

    def _check_start(self, wanted: StructuredOutput, matcher: Matcher) -> None:
        mask = np.zeros((1, mask_words(self._vocabulary)), dtype=np.int32)
        matcher.masks((), mask)
        if matcher.error is not None or not mask.any():
            raise InvalidRequestError(f"structured_outputs.{wanted.kind} cannot be satisfied by any text")


def _limits() -> "LLParserLimits":
    """What one grammar may cost: see docs/structured-output.md."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=2_000,
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_lexer_states=50_000,
        max_grammar_size=500_000,
        verbose_errors=False,
    )
