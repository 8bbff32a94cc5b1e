"""Logits to tokens, one row a request; a row's token never depends on the others."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fathom_server.engine.request import Request, SamplingParameters


def next_tokens(logits: npt.NDArray[np.float32], requests: Sequence[Request]) -> list[int | None]:
    """Choose each row's next token.

    ``logits`` is float32 [batch, vocabulary], row i that of ``requests[i]``. A row whose largest logit is not finite
    gives None: its model is broken there, and nobody may be shown a token made up from it.
    """
    chosen = logits.argmax(axis=-1)
    finite = np.isfinite(logits[np.arange(len(requests)), chosen])
    tokens: list[int | None] = []
    for row, request in enumerate(requests):
        if not finite[row]:
            tokens.append(None)
        elif request.sampling.is_plain_greedy:
            tokens.append(int(chosen[row]))
        else:
            tokens.append(_sample(logits[row], request))
    return tokens


def _sample(row: npt.NDArray[np.float32], request: Request) -> int:
    sampling = request.sampling
    scores = penalised(row.astype(np.float64), request.prompt_ids + request.output_ids, sampling.repetition_penalty)
    if sampling.temperature == 0.0:
        return int(scores.argmax())
    tokens, probabilities = kept_distribution(scores, sampling)
    cumulative = probabilities.cumsum()
    position = int(np.searchsorted(cumulative, request.generator.random() * cumulative[-1], side="right"))
    return int(tokens[min(position, len(tokens) - 1)])


def penalised(scores: npt.NDArray[np.float64], seen_ids: Sequence[int], penalty: float) -> npt.NDArray[np.float64]:
    """Scores with the repetition penalty on every token seen (transformers' RepetitionPenaltyLogitsProcessor)."""
    if penalty != 1.0:
        seen = np.unique(np.asarray(seen_ids, dtype=np.int64))
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
    return scores


def kept_distribution(
    scores: npt.NDArray[np.float64], sampling: SamplingParameters
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Tokens that temperature, top-k and top-p leave, most probable first, and their probabilities (sum 1).

    Applied in transformers' order (temperature, top-k, top-p); ties at the k-th score are kept, as there.
    """
    scores = scores / sampling.temperature
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    kept = len(ranked)
    if 0 < sampling.top_k < kept:
        kept = int(np.count_nonzero(ranked >= ranked[sampling.top_k - 1]))
    probabilities = np.exp(ranked[:kept] - ranked[0])
    probabilities /= probabilities.sum()
    if sampling.top_p < 1.0:
        before = probabilities.cumsum() - probabilities  # a token stays while those before it fall short of top_p
        kept = max(1, int(np.count_nonzero(before < sampling.top_p)))
        probabilities = probabilities[:kept] / probabilities[:kept].sum()
    return order[:kept], probabilities
