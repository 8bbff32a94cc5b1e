"""Sampling parameters in vLLM's own form, the JSON that its backend takes; what it cannot do is refused by name."""

import json
from typing import Any, Final

from fathom_server.engine.sampling_parameters import MAX_SEED, SamplingParameters
from fathom_server.errors import InvalidRequestError

MAX_TEMPERATURE: Final = 2.0
"""vLLM's own bound (``SamplingParams._verify_args``)."""


def refuse_unsupported(sampling: SamplingParameters) -> None:
    """Raise InvalidRequestError for what vLLM, or Triton's backend before it, does not take."""
    if sampling.temperature > MAX_TEMPERATURE:
        raise InvalidRequestError(
            f"temperature is {sampling.temperature}; this model is computed by vLLM, which takes 0 to {MAX_TEMPERATURE}"
        )
    refusals = (
        (sampling.typical_p != 1.0, f"typical_p is {sampling.typical_p}", "vLLM has no typical-p; use min_p"),
        (sampling.sequences > sampling.n, f"best_of is {sampling.best_of}", "vLLM has none; set n"),
        (bool(sampling.logit_bias), "logit_bias is set", "Triton's vLLM backend cannot hand it on; leave it out"),
        (
            sampling.prompt_logprobs is not None,
            f"prompt_logprobs is {sampling.prompt_logprobs}",
            "Triton's vLLM backend gives none; leave it out",
        ),
    )
    for applies, what, reason in refusals:
        if applies:
            raise InvalidRequestError(f"{what}, but this model is computed by vLLM: {reason}")


def sampling_json(sampling: SamplingParameters, max_tokens: int, index: int) -> str:
    """The parameters of a request's answer ``index``, each of which is a request of its own to vLLM.

    Log-probabilities are always asked for: they name the chosen token first, and nothing else of the backend's answer
    tells the tokens. Each answer has a seed of its own, as vLLM itself gives them.
    """
    values: dict[str, Any] = {
        "max_tokens": max_tokens,
        "min_tokens": sampling.min_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        "bad_words": list(sampling.bad_words),
        "include_stop_str_in_output": sampling.include_stop_str_in_output,
        "skip_special_tokens": sampling.skip_special_tokens,
        "ignore_eos": sampling.ignore_eos,
        "logprobs": sampling.logprobs or 0,
    }
    if sampling.seed is not None:
        values["seed"] = (sampling.seed + index) & MAX_SEED
    if sampling.structured_outputs is not None:
        values["structured_outputs"] = json.dumps(_structure(sampling), ensure_ascii=False)  # the backend parses a text
    return json.dumps(values, ensure_ascii=False)


def _structure(sampling: SamplingParameters) -> dict[str, Any]:
    structure = sampling.structured_outputs
    if structure is None:
        return {}
    if structure.kind == "json_object":
        return {"json_object": True}
    if structure.kind == "choice":
        return {"choice": list(structure.choices)}
    return {structure.kind: structure.value}
