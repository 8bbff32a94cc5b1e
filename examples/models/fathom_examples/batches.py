"""Steps of training data: single questions in buckets of like length, and long conversations up to 2,048 positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

from fathom_examples.architecture import END_OF_TEXT_ID
from fathom_examples.chat_tokenizer import IM_END, MAX_POSITIONS, render_prompt
from fathom_examples.corpus import training_samples
from fathom_examples.tasks import Sample

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

MICRO_BATCH_TOKENS = 4_096
MINIMUM_TOKENS = 512
CONVERSATION_LENGTHS = (256, 256, 256, 512, 1_024, 2_048)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and for each the weight of its loss: above zero for the assistant's (the reply and ``<|im_end|>``)."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Right-padded ``ids`` [batch, length], ``targets`` (the next ids; -100: no loss) and their weights."""

    ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def encode_samples(tokenizer: Tokenizer, samples: list[Sample]) -> list[Encoded]:
    """Encode each sample as a conversation, with its follow-ups as further turns; each ends with ``<|im_end|>``.

    A reply of n tokens weighs sqrt(n) in all: with one weight a token, JSON would drown arithmetic.
    """
    turns = [
        turn
        for sample in samples
        for turn in (
            (render_prompt(sample.messages()), sample.answer),
            *((render_prompt([{"role": "user", "content": asked}]), answer) for asked, answer in sample.follow_ups),
        )
    ]
    prompts = tokenizer.encode_batch_fast([prompt for prompt, _ in turns])
    answers = tokenizer.encode_batch_fast([f"{answer}{IM_END}\n" for _, answer in turns])
    pairs = zip(prompts, answers, strict=True)
    encoded = []
    for sample in samples:
        row = Encoded([], [])
        for prompt, answer in islice(pairs, 1 + len(sample.follow_ups)):
            row.ids.extend(prompt.ids + answer.ids)
            reply_tokens = len(answer.ids) - 1
            row.weights.extend([0.0] * len(prompt.ids) + [reply_tokens**-0.5] * reply_tokens + [0.0])
        encoded.append(row)
    return encoded


def collate(rows: list[Encoded]) -> MicroBatch:
    """Pad to the longest row. Causal attention keeps real tokens from seeing the padding, so no mask is needed."""
    import torch

    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), END_OF_TEXT_ID)
    targets = torch.full((len(rows), length), -100)
    weights = torch.zeros((len(rows), length))
    for index, row in enumerate(rows):
        tokens = torch.tensor(row.ids)
        ids[index, : len(tokens)] = tokens
        weights[index, : len(tokens) - 1] = torch.tensor(row.weights[1:])
        targets[index, : len(tokens) - 1] = tokens[1:]
    return MicroBatch(ids, targets.masked_fill(weights == 0, -100), weights)


def conversation(samples: Iterator[Encoded], length: int) -> Encoded:
    """Join samples as the turns of one conversation, cut at ``length``; later turns do see the earlier ones."""
    ids: list[int] = []
    weights: list[float] = []
    while len(ids) < length:
        turn = next(samples)
        ids += turn.ids
        weights += turn.weights
    return Encoded(ids[:length], weights[:length])


def training_steps(
    tokenizer: Tokenizer,
    seed: int,
    step_tokens: int,
    conversation_share: float,
    source: Iterator[Sample] | None = None,
) -> Iterator[list[MicroBatch]]:
    """An endless stream of optimizer steps of about ``step_tokens`` tokens, in micro-batches of about 4,096.

    ``source`` gives the samples without end; without it they are those that both models were trained on.
    """
    rng = Random(f"steps {seed}")
    source = training_samples(seed) if source is None else source

    def stream() -> Iterator[Encoded]:
        while True:
            yield from encode_samples(tokenizer, list(islice(source, 512)))

    samples = stream()
    while True:
        micro_batches = []
        budget = step_tokens * conversation_share
        while budget > 0:
            length = rng.choice(CONVERSATION_LENGTHS)
            rows = [conversation(samples, length) for _ in range(MAX_POSITIONS // length)]
            micro_batches.append(collate(rows))
            budget -= MAX_POSITIONS
        singles: list[Encoded] = []
        budget = step_tokens * (1 - conversation_share)
        while budget > 0:
            singles.append(next(samples))
            budget -= len(singles[-1].ids)
        singles.sort(key=lambda row: len(row.ids))
        bucket: list[Encoded] = []
        for row in singles:
            padded = len(row.ids) * (len(bucket) + 1)
            uneven = padded > MINIMUM_TOKENS and len(row.ids) > 1.3 * len(bucket[0].ids)
            if bucket and (uneven or padded > MICRO_BATCH_TOKENS):
                micro_batches.append(collate(bucket))
                bucket = []
            bucket.append(row)
        if bucket:
            micro_batches.append(collate(bucket))
        yield micro_batches
