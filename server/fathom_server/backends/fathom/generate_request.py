"""A generate request's tensors as typed values; every refusal names the parameter, its value and the remedy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fathom_client import protocol
from fathom_server.backends.fathom.sampling_request import SamplingRequest, read_sampling
from fathom_server.backends.fathom.tensor_values import Tensors, flag, parsed_json, text
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.errors import InvalidRequestError
from fathom_server.text.tokenizer import TextError, TextTokenizer

OUTPUT_FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    protocol.RETURN_FINISH_REASON: (protocol.FINISH_REASON,),
    protocol.RETURN_NUM_INPUT_TOKENS: (protocol.NUM_INPUT_TOKENS,),
    protocol.RETURN_NUM_OUTPUT_TOKENS: (protocol.NUM_OUTPUT_TOKENS,),
    protocol.RETURN_OUTPUT_IDS: (protocol.OUTPUT_IDS,),
    protocol.RETURN_CUMULATIVE_LOGPROB: (protocol.CUMULATIVE_LOGPROB,),
    protocol.RETURN_LOG_PROBS: (protocol.CUM_LOG_PROBS, protocol.OUTPUT_LOG_PROBS),
}


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What a caller asks of an LLM: the prompt's ids, how to sample, and which outputs to give.

    ``outputs`` are tensor names: the text always; the sequence's index where there are several; log-probabilities
    where sampling asks for them; the others where their ``return_...`` flag is set, as vLLM's backend has it.
    ``bad_word_ids`` are the token sequences of the bad words. A request with a lower ``priority`` goes first.
    """

    prompt_ids: list[int]
    sampling: SamplingParameters
    stream: bool
    exclude_input_in_output: bool
    outputs: frozenset[str]
    bad_word_ids: tuple[tuple[int, ...], ...] = ()
    priority: int = 0


def read_generate_request(tensors: Tensors, tokenizer: TextTokenizer) -> GenerateRequest:
    """Read a request's input tensors (``protocol.GENERATE_INPUTS``); raises InvalidRequestError."""
    asked = read_sampling(tensors)
    sampling = asked.sampling
    stream = flag(tensors, protocol.STREAM)
    if stream and sampling.sequences > sampling.n:
        raise InvalidRequestError(
            f"best_of is {sampling.sequences} and n {sampling.n} in a streamed answer, but the best are known at the "
            "end; set stream to false, or best_of to n"
        )
    return GenerateRequest(
        prompt_ids=_prompt_ids(tensors, tokenizer),
        sampling=sampling,
        stream=stream,
        exclude_input_in_output=flag(tensors, protocol.EXCLUDE_INPUT_IN_OUTPUT, default=True),
        outputs=_outputs(tensors, asked),
        bad_word_ids=bad_word_ids(sampling.bad_words, tokenizer),
        priority=asked.priority,
    )


def refuse_unknown_parameters(given: Iterable[str], known: Iterable[str] = ()) -> None:
    """Refuse request parameters that nothing would read: over HTTP, a misspelt input arrives as one.

    ``given`` are the parameters that Triton hands on (not those that it keeps, as ``timeout``).
    """
    strangers = sorted(set(given) - set(known))
    if strangers:
        inputs = ", ".join(tensor.name for tensor in protocol.GENERATE_INPUTS)
        raise InvalidRequestError(f"{strangers[0]!r} is no input or parameter of this model; inputs: {inputs}")


def bad_word_ids(words: Iterable[str], tokenizer: TextTokenizer) -> tuple[tuple[int, ...], ...]:
    """Token sequences that spell the words: each as it stands at a text's beginning and within it, after a space."""
    forms = (form for word in words for form in (word, " " + word.lstrip()))
    ids = (tuple(tokenizer.tokenizer.encode(form, add_special_tokens=False).ids) for form in forms)
    return tuple(dict.fromkeys(each for each in ids if each))


def _outputs(tensors: Tensors, asked: SamplingRequest) -> frozenset[str]:
    outputs = {protocol.TEXT_OUTPUT}
    for name, added in OUTPUT_FLAGS.items():
        if flag(tensors, name):
            outputs.update(added)
    if asked.sampling.n > 1:
        outputs.add(protocol.SEQUENCE_INDEX)
    if asked.sampling.prompt_logprobs is not None:
        outputs.add(protocol.PROMPT_LOGPROBS)
    if asked.lists_logprobs:
        outputs.add(protocol.LOGPROBS)
    return frozenset(outputs)


def _prompt_ids(tensors: Tensors, tokenizer: TextTokenizer) -> list[int]:
    prompts = [name for name in (protocol.TEXT_INPUT, protocol.MESSAGES, protocol.INPUT_IDS) if name in tensors]
    if len(prompts) != 1:
        given = " and ".join(prompts) if prompts else "none of them"
        raise InvalidRequestError(f"send exactly one of text_input, messages and input_ids; this request has {given}")
    if protocol.INPUT_IDS in tensors:
        return [int(token) for token in tensors[protocol.INPUT_IDS].reshape(-1)]
    prompt = text(tensors, prompts[0])
    if not prompt:
        raise InvalidRequestError(f"{prompts[0]} is empty; send at least one character")
    try:
        if prompts[0] == protocol.TEXT_INPUT:
            return tokenizer.encode(prompt)
        return tokenizer.encode_messages(parsed_json(prompt, protocol.MESSAGES))
    except TextError as error:
        raise InvalidRequestError(str(error)) from error
