"""What structured output costs: compiling, masks, forced tokens and memory, over the schemas of the tests.

    python -m benchmarks.grammar [--vocabulary 49152] [--tokenizer FILE] [--answers 2] [--xgrammar]

Takes a ``tokenizer.json``, or trains byte-level BPE of that size on Python's own sources (half a minute), then makes
random answers to every schema and times each mask, one thread, in one process. With ``--xgrammar`` the same schemas and
answers go through that library too, in turn with ours, where it is installed (it needs torch, which the server has
not).
"""

import argparse
import json
import random
import statistics
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tests.server.engine.grammar_tokenizers import QWEN_SPLIT
from tests.server.engine.grammar_walk import Model, allowed, at_random
from tests.server.engine.schemas.generator import schemas
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from fathom_server.engine.grammar import MaskPool
from fathom_server.engine.structured_output import StructuredOutput
from fathom_server.text.tokenizer import TextTokenizer

SCHEMAS = Path(__file__).parents[1] / "tests/server/engine/schemas/real.jsonl"
CORPUS_BYTES = 24 << 20
DRAFTS = 4
BATCH = 16


@dataclass(slots=True)
class Times:
    """Seconds of one kind of work."""

    seconds: list[float] = field(default_factory=list)

    def row(self, name: str) -> str:
        """A row of the table, in ms."""
        ordered = sorted(self.seconds)
        p95, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.95, 0.99))
        values = (statistics.median(ordered), p95, p99, ordered[-1])
        return f"| {name} | {len(ordered)} | " + " | ".join(f"{1e3 * value:.3f}" for value in values) + " |"


def trained_tokenizer(vocabulary: int) -> Tokenizer:
    """Byte-level BPE over the standard library's sources."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sources(), trainer)
    return tokenizer


def _sources() -> Iterator[str]:
    taken = 0
    yield SCHEMAS.read_text(encoding="utf-8")
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if taken > CORPUS_BYTES:
            return
        text = path.read_text(encoding="utf-8", errors="replace")
        taken += len(text)
        yield text


def data_set() -> list[Any]:
    """The schemas that the tests hold answers to."""
    real = [json.loads(line)["schema"] for line in SCHEMAS.read_text(encoding="utf-8").splitlines()]
    return [*real, *schemas(225, seed=7)]


def resident_mib() -> float:
    """Memory of this process now."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=49152, help="tokens (default: %(default)s)")
    parser.add_argument("--tokenizer", type=Tokenizer.from_file, metavar="FILE", help="a tokenizer.json; id 1 ends")
    parser.add_argument("--answers", type=int, default=2, help="answers to each schema (default: %(default)s)")
    parser.add_argument("--every", type=int, default=1, help="take every n-th schema (default: %(default)s)")
    parser.add_argument("--xgrammar", action="store_true", help="measure xgrammar too, in turn")
    arguments = parser.parse_args()

    tokenizer = arguments.tokenizer or trained_tokenizer(arguments.vocabulary)
    model = Model.of(TextTokenizer(tokenizer, {}, None), arguments.vocabulary, frozenset([1]))
    print(f"vocabulary {arguments.vocabulary}, of which the tokenizer has {tokenizer.get_vocab_size()}", flush=True)
    peer = _Peer(tokenizer, arguments.vocabulary) if arguments.xgrammar else None

    before, begin = resident_mib(), time.perf_counter()
    model.compiler.compile(StructuredOutput("json_object"))
    print(f"first use: {time.perf_counter() - begin:.2f} s, {resident_mib() - before:.0f} MiB")

    wanted = data_set()[:: arguments.every]
    compiling, masks, drafted, forcing = Times(), Times(), Times(), Times()
    tokens = forced_tokens = 0
    row = np.empty((DRAFTS + 1, model.words), dtype=np.int32)
    for index, schema in enumerate(wanted):
        value = json.dumps(schema)
        begin = time.perf_counter()
        grammar = model.compiler.compile(StructuredOutput("json", value))
        compiling.seconds.append(time.perf_counter() - begin)
        if peer is not None:
            peer.compile(value)
        for answer in range(arguments.answers):
            matcher, choose = grammar.matcher(), at_random(model, index * 1000 + answer)
            taken: list[int] = []
            if peer is not None:
                peer.begin()
            while not matcher.is_complete:
                begin = time.perf_counter()
                forced = matcher.forced()
                forcing.seconds.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                matcher.masks((), row)
                masks.seconds.append(time.perf_counter() - begin)
                if peer is not None:
                    peer.mask()
                token = forced[0] if forced else choose(allowed(row[0]), taken)
                if forced:
                    begin = time.perf_counter()
                    valid = matcher.masks(forced[:DRAFTS], row)
                    drafted.seconds.append((time.perf_counter() - begin) / valid)
                for accepted in forced or [token]:
                    matcher.advance(accepted)
                    taken.append(accepted)
                    if peer is not None:
                        peer.advance(accepted)
                tokens += len(forced or [token])
                forced_tokens += len(forced)
    print(f"{len(wanted)} schemas, {tokens} tokens, {forced_tokens / tokens:.0%} of them forced")
    print(f"memory now: {resident_mib() - before:.0f} MiB more than before the first use")
    print("\n| ms | n | median | 95 % | 99 % | most |\n|---|---|---|---|---|---|")
    print(compiling.row("compile a schema"))
    print(masks.row("mask"))
    print(drafted.row(f"mask, forced tokens as drafts ({DRAFTS})"))
    print(forcing.row("forced tokens"))
    print(_batch(model, wanted).row(f"masks of {BATCH} answers through the pool"))
    if peer is not None:
        print(peer.report())
    return 0


def _batch(model: Model, wanted: list[Any]) -> Times:
    """A step of ``BATCH`` answers to different schemas, from start to the last mask."""
    times, pool = Times(), MaskPool()
    values = [json.dumps(schema) for schema in wanted[:BATCH]]
    matchers = [model.matcher("json", value) for value in values]
    chosen = random.Random(1)
    for _ in range(60):
        begin = time.perf_counter()
        rows = pool.start(matchers, [()] * len(matchers)).wait()
        times.seconds.append(time.perf_counter() - begin)
        for position, (matcher, row) in enumerate(zip(matchers, rows, strict=True)):
            ids = [token for token in allowed(row[0]).tolist() if token not in model.eos_token_ids]
            if ids:
                matcher.advance(chosen.choice(ids))
            else:
                matchers[position] = model.matcher("json", values[position])
    pool.close()
    return times


class _Peer:
    """xgrammar over the same schemas and answers."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        import xgrammar  # type: ignore[import-not-found]  # not among the project's packages

        self.library = xgrammar
        texts = [tokenizer.id_to_token(index) or "" for index in range(vocabulary)]
        info = xgrammar.TokenizerInfo(
            texts, xgrammar.VocabType.BYTE_LEVEL, vocab_size=vocabulary, stop_token_ids=[1], add_prefix_space=False
        )
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=1)
        self.bitmask = xgrammar.allocate_token_bitmask(1, vocabulary)
        self.compiling, self.masks = Times(), Times()
        self.refused = self.strayed = 0
        self.grammar: Any = None
        self.matcher: Any = None

    def compile(self, value: str) -> None:
        """Compile a schema, timed."""
        begin = time.perf_counter()
        try:
            self.grammar = self.compiler.compile_json_schema(value, any_whitespace=False, separators=(", ", ": "))
        except Exception:  # whatever it raises, it is no grammar
            self.grammar = None
            self.refused += 1
        self.compiling.seconds.append(time.perf_counter() - begin)

    def begin(self) -> None:
        """Start an answer."""
        self.matcher = None if self.grammar is None else self.library.GrammarMatcher(self.grammar)

    def mask(self) -> None:
        """Compute the mask of the next token, timed."""
        if self.matcher is not None:
            begin = time.perf_counter()
            self.matcher.fill_next_token_bitmask(self.bitmask)
            self.masks.seconds.append(time.perf_counter() - begin)

    def advance(self, token: int) -> None:
        """Accept a token of the answer, which it may refuse."""
        if self.matcher is not None and not self.matcher.accept_token(token):
            self.strayed += 1
            self.matcher = None

    def report(self) -> str:
        """Rows of the table."""
        lines = [self.compiling.row("xgrammar: compile a schema"), self.masks.row("xgrammar: mask")]
        return "\n".join([*lines, f"xgrammar refused {self.refused} schemas and {self.strayed} valid answers"])


if __name__ == "__main__":
    sys.exit(main())
