"""Both models' answers to a held-out set, and what every signal says of the small one's."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from fathom_client import Client, Generation
from fathom_export.quality.held_out import HeldOutRow
from fathom_export.spec.cascade import CascadeOptions
from fathom_server.cascade.evidence import Evidence, SequenceEvidence, entropy
from fathom_server.cascade.hook import Hook, SmallAnswer
from fathom_server.cascade.settings import TOKEN_SIGNALS, SignalName

_AT_ONCE: Final = 16
_LIKELIEST: Final = 20


@dataclass(frozen=True, slots=True)
class Observation:
    """One question: whether either model is right, its tokens (prompt and answer), and the signals' values.

    ``sample_tokens`` are those of the answers that ``agreement`` compares. ``features`` are ``TOKEN_FEATURES`` of the
    small answer, ``embedding`` the prompt's, empty without an encoder.
    """

    id: str
    task: str
    small_right: bool
    large_right: bool
    small_tokens: int
    large_tokens: int
    sample_tokens: int
    values: dict[SignalName, float]
    features: tuple[float, ...]
    embedding: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Surveyor:
    """Asks both models of a cascade what a held-out set asks."""

    options: CascadeOptions
    signals: frozenset[SignalName]
    max_tokens: int
    client: Client
    large_client: Client
    hook: Hook | None = None

    def observe_all(self, rows: Sequence[HeldOutRow], on_progress: Callable[[int, int], None]) -> list[Observation]:
        """An observation a row, in order; raises FathomError where a model cannot answer."""
        observations = []
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="survey") as pool:
            try:
                for done, observation in enumerate(pool.map(self.observe, rows), start=1):
                    observations.append(observation)
                    on_progress(done, len(rows))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return observations

    def observe(self, row: HeldOutRow) -> Observation:
        """One question, asked of both models."""
        options = self.options
        small = self.client.chat(options.small, row.messages, max_tokens=self.max_tokens, logprobs=_LIKELIEST)
        large = self.large_client.chat(options.large, row.messages, max_tokens=self.max_tokens)
        prompt = next((each["content"] for each in reversed(row.messages) if each["role"] == "user"), "")
        evidence = _evidence(small)
        sequence = evidence.sequences[0]
        values: dict[SignalName, float] = {
            signal: sequence.value(signal, options.decide_after_tokens) for signal in self.signals & TOKEN_SIGNALS
        }
        sample_tokens = 0
        if "agreement" in self.signals:
            values["agreement"], sample_tokens = self._agreement(row, small.text)
        if "verifier" in self.signals:
            scores = self.client.rerank(options.verifier, prompt or " ", [small.text or " "], truncate=True).scores
            values["verifier"] = float(scores[0])
        if self.hook is not None:
            answer = SmallAnswer(
                prompt,
                small.text,
                small.finish_reason,
                tuple(sequence.logprobs),
                tuple(sequence.entropies),
                {},
            )
            values["hook"] = float(self.hook(answer))
        embedding: tuple[float, ...] = ()
        if options.encoder:
            vectors = self.client.embed(options.encoder, prompt or " ", truncate=True).vectors
            embedding = tuple(map(float, vectors[0]))
        return Observation(
            id=row.id,
            task=row.task,
            small_right=row.is_right(small.text),
            large_right=row.is_right(large.text),
            small_tokens=small.num_input_tokens + small.num_output_tokens,
            large_tokens=large.num_input_tokens + large.num_output_tokens,
            sample_tokens=sample_tokens,
            values=values,
            features=tuple(evidence.features(sequence)),
            embedding=embedding,
        )

    def _agreement(self, row: HeldOutRow, text: str) -> tuple[float, int]:
        options = self.options
        samples = self.client.chat(
            options.small,
            row.messages,
            max_tokens=self.max_tokens,
            n=options.samples,
            temperature=options.sample_temperature,
        )
        same = sum(choice.text.strip() == text.strip() for choice in samples.choices)
        return same / len(samples.choices), samples.num_input_tokens + samples.num_output_tokens


def _evidence(answer: Generation) -> Evidence:
    """What the cascade would know of the answer."""
    logprobs = answer.logprobs or ()
    evidence = Evidence()
    evidence.input_tokens, evidence.output_tokens = answer.num_input_tokens, answer.num_output_tokens
    evidence.sequences[0] = SequenceEvidence(
        text=answer.text,
        logprobs=[each.logprob or 0.0 for each in logprobs],
        entropies=[entropy([other.logprob or 0.0 for other in each.top]) for each in logprobs],
        finish_reason=answer.finish_reason,
    )
    return evidence
