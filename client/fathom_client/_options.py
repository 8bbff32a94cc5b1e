"""What a caller may say about a generation: messages and options, and the checks that need no knowledge of a model."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypedDict

from fathom_client.errors import InvalidArgumentError

INT32_MAX: Final = 2**31 - 1
UINT64_MAX: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; ``role`` is ``system``, ``user`` or ``assistant`` in most chat templates."""

    role: str
    content: str


class GenerateOptions(TypedDict, total=False):
    """Keyword arguments of ``generate``, ``stream``, ``chat`` and ``stream_chat``; the server chooses what is left out.

    Length. ``max_tokens``: most tokens of the answer, at least 1. ``min_tokens``: nothing ends the answer before.
    ``stop``: strings that end the answer and do not appear in it, except with ``include_stop_str_in_output``.
    ``stop_token_ids``: tokens that end it. ``ignore_eos``: go on past the model's end token, for measurements of a
    fixed length.

    Choice. ``temperature``: 0 is greedy, at most 100. ``top_k``: sample among so many tokens, 0 for all. ``top_p``:
    sample among the likeliest tokens of this probability mass, above 0, at most 1. ``min_p``: only among tokens that
    are at least this times as probable as the likeliest, 0 to 1. ``typical_p``: only among the tokens of typical
    information of this mass, above 0, at most 1. ``repetition_penalty``: above 0, 1 changes nothing, over prompt and
    answer. ``presence_penalty``, ``frequency_penalty``: -2 to 2, once and each time a token has come in the answer.
    ``logit_bias``: token ids and what to add to their logits, -100 to 100. ``bad_words``: texts that do not appear, as
    far as they are spelt in the tokens that the tokenizer would choose. ``seed``: 0 to 2^64 - 1, repeats a sampled
    answer.

    Structure, one of: ``json_schema`` (a schema as a mapping, or as JSON text), ``json_object`` (any JSON object),
    ``regex``, ``choice`` (strings, one of which is the answer), ``grammar`` (a context-free grammar).

    Chat. ``tools``: functions that the model may call, as OpenAI's API describes them, for its chat template;
    ``chat_template_kwargs``: further variables of the template.

    Answers. ``n``: how many, 1 to 128; ``best_of``: choose them among so many, not while streaming. ``logprobs``: give
    each token's log-probability and those of so many likeliest ones, 0 to 20; ``prompt_logprobs``: the prompt's.
    ``echo``: the prompt's text before the answer's. ``skip_special_tokens``: False shows special tokens by their names.

    Call. ``priority``: the lower goes first, 0 without. ``client``: on whose behalf the request comes; within a
    priority, clients take turns. ``precision``: the weights that are to answer, where the model has them in two.
    ``timeout_s``: seconds for the whole answer, in place of the client's. ``request_id``: a name for logs and errors, a
    random one otherwise.
    """

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    repetition_penalty: float | None
    stop: Sequence[str] | None
    ignore_eos: bool
    timeout_s: float | None
    request_id: str | None
    min_tokens: int | None
    min_p: float | None
    typical_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    bad_words: Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    include_stop_str_in_output: bool
    json_schema: Mapping[str, Any] | str | None
    json_object: bool
    regex: str | None
    choice: Sequence[str] | None
    grammar: str | None
    n: int | None
    best_of: int | None
    logprobs: int | None
    prompt_logprobs: int | None
    echo: bool
    tools: Sequence[Mapping[str, Any]] | None
    chat_template_kwargs: Mapping[str, Any] | None
    skip_special_tokens: bool
    priority: int | None
    client: str | None
    precision: str | None


def check_text(name: str, value: object) -> bytes:
    """Return a text's UTF-8 bytes; raise InvalidArgumentError if it is no text, empty or not encodable."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} is a {type(value).__name__}; give a str")
    if not value:
        raise InvalidArgumentError(f"{name} is empty; give at least one character")
    return encode(name, value)


def encode(name: str, value: str) -> bytes:
    """Return a string's UTF-8 bytes; raise InvalidArgumentError for a lone surrogate."""
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{name} has the lone surrogate U+{ord(value[error.start]):04X} at position {error.start}, which is no "
            "character and cannot be sent as UTF-8; remove it"
        ) from None


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """Return an integer in ``low..high``; raise InvalidArgumentError otherwise."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidArgumentError(f"{name} is {value!r}; give an integer between {low} and {high}")
    number = value.__index__()
    if not low <= number <= high:
        raise InvalidArgumentError(f"{name} is {number}; it must be between {low} and {high}")
    return int(number)


def check_number(name: str, value: object, low: float, high: float, *, above: bool) -> float:
    """Return a finite number in ``low..high``, without ``low`` itself if ``above``; raise InvalidArgumentError."""
    limits = f"{'above' if above else 'at least'} {low:g}" + ("" if math.isinf(high) else f" and at most {high:g}")
    if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, str):
        raise InvalidArgumentError(f"{name} is {value!r}; give a number {limits}")
    number = float(value.__float__())
    if not math.isfinite(number) or number < low or number > high or (above and number == low):
        raise InvalidArgumentError(f"{name} is {number:g}; it must be {limits}")
    return number


def check_strings(name: str, values: object) -> list[bytes]:
    """Return strings' UTF-8 bytes; raise InvalidArgumentError for anything but strings with a character."""
    if values is None:
        return []
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise InvalidArgumentError(f"{name} is {values!r}; give a list of strings")
    return [check_text(f"{name}[{index}]", value) for index, value in enumerate(values)]


def messages_json(messages: Sequence[Message | Mapping[str, Any]], options: GenerateOptions) -> bytes:
    """Return a conversation as the JSON that goes on the wire; raise InvalidArgumentError naming the turn.

    It is the list of turns, or an object of the list and of what ``options`` hold for the chat template.
    """
    if isinstance(messages, str | Mapping | Message) or not isinstance(messages, Sequence):
        raise InvalidArgumentError(f"messages is a {type(messages).__name__}; give a list of messages")
    if not messages:
        raise InvalidArgumentError("messages is empty; give at least one message")
    turns = [_turn(index, message) for index, message in enumerate(messages)]
    further = _for_template(options)
    try:
        conversation = {"messages": turns, **further} if further else turns
        text = json.dumps(conversation, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"messages cannot be written as JSON: {error}") from None
    return encode("messages", text)


def _for_template(options: GenerateOptions) -> dict[str, Any]:
    tools, further = options.get("tools"), options.get("chat_template_kwargs")
    if tools is not None and (isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence)):
        raise InvalidArgumentError(
            f"tools is a {type(tools).__name__}; give a list of mappings that describe functions"
        )
    for index, tool in enumerate(tools or ()):
        if not isinstance(tool, Mapping):
            raise InvalidArgumentError(f"tools[{index}] is a {type(tool).__name__}; give a mapping")
    if further is not None and not isinstance(further, Mapping):
        raise InvalidArgumentError(f"chat_template_kwargs is a {type(further).__name__}; give a mapping")
    return {
        **({"tools": [dict(tool) for tool in tools]} if tools else {}),
        **({"chat_template_kwargs": dict(further)} if further else {}),
    }


def _turn(index: int, message: object) -> dict[str, Any]:
    if isinstance(message, Message):
        turn = asdict(message)
    elif isinstance(message, Mapping):
        turn = dict(message)
    else:
        raise InvalidArgumentError(
            f"messages[{index}] is a {type(message).__name__}; give a Message or a mapping with role and content"
        )
    for key in ("role", "content"):
        if not isinstance(turn.get(key), str):
            raise InvalidArgumentError(f"messages[{index}] has the {key} {turn.get(key)!r}; give a string")
        encode(f"messages[{index}].{key}", turn[key])
    return turn
