"""A checkpoint's tokenizer and chat template, read from ``tokenizer.json`` and ``tokenizer_config.json``.

Export copies this file beside every tokenizer model as ``fathom_text.py``, so it imports nothing of ``fathom_server``:
only ``tokenizers`` and ``jinja2``. It gives the ids that transformers gives for the same text and messages.
"""

import functools
import json
import re
import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
from tokenizers import Tokenizer

TOKENIZER_FILE: Final = "tokenizer.json"
TOKENIZER_CONFIG_FILE: Final = "tokenizer_config.json"
CHAT_TEMPLATE_FILE: Final = "chat_template.jinja"

MAX_TOKENIZER_BYTES: Final = 256 << 20
MAX_CONFIG_BYTES: Final = 16 << 20
"""Larger files are refused before they are read; the largest vocabularies in use take a tenth of this."""

MAX_TEMPLATE_STEPS: Final = 1_000_000
MAX_TEMPLATE_CHARACTERS: Final = 16 << 20
MAX_TEMPLATE_S: Final = 10.0
"""What one rendering of a chat template may compute and make."""

_MAX_BITS: Final = 256
_SMALL: Final = 1 << 10
_TURNS: Final = "fathom turns"
_PIECES: Final = "fathom pieces"
_PADDERS: Final = ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "tojson", "batch", "slice", "range")

_CONVERSATION: Final = ("messages", "tools", "chat_template_kwargs")
_SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TextError(ValueError):
    """The caller's text or messages cannot be turned into tokens; the message says why and what would do."""


class TextTokenizer:
    """Tokenizer and chat template of one checkpoint. Safe to use from several threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: dict[str, Any],
        chat_template: str | None,
        tool_template: str | None = None,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self._special_tokens = {
            name: _token_text(config[name]) for name in _SPECIAL_TOKENS if config.get(name) is not None
        }
        self._template = _compile_template(chat_template) if chat_template is not None else None
        self._tool_template = _compile_template(tool_template) if tool_template is not None else self._template
        self.tool_template = tool_template or chat_template
        """Source of the template for conversations with tools; it may not know them."""

    @classmethod
    def load(cls, folder: Path) -> "TextTokenizer":
        """Read a folder's tokenizer files.

        Raises FileNotFoundError without ``tokenizer.json`` and TextError where a file cannot be read.
        """
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        _check_size(path, MAX_TOKENIZER_BYTES)
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise TextError(f"{path} is not a tokenizer: {error}") from error
        config = _read_config(folder / TOKENIZER_CONFIG_FILE)
        try:
            return cls(tokenizer, config, *_find_templates(folder, config))
        except (KeyError, TypeError, UnicodeDecodeError) as error:
            raise TextError(f"{folder / TOKENIZER_CONFIG_FILE} has not the form of one: {error!r}") from error

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be encoded."""
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """Ids of one text, with the special tokens that the tokenizer adds by itself."""
        return self._ids(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts, each unpadded."""
        return [list(encoding.ids) for encoding in self.tokenizer.encode_batch_fast(list(texts))]

    def encode_rows(self, rows: Sequence[str | tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Ids and token types of several texts, or pairs of texts, each unpadded."""
        return [(list(row.ids), list(row.type_ids)) for row in self.tokenizer.encode_batch_fast(list(rows))]

    def encode_messages(self, conversation: object) -> list[int]:
        """Ids of a conversation, ready for the assistant's answer.

        ``conversation`` is a list of messages, objects with ``role`` and ``content`` strings; or an object with such
        ``messages`` and, for the template, ``tools`` (a list of objects that describe functions, as in OpenAI's API)
        and ``chat_template_kwargs`` (an object of further variables). Raises TextError where it is not, where the model
        has no chat template, or where the template refuses it.
        """
        return self._ids(self.render(conversation), add_special_tokens=False)

    def _ids(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of one text; offsets, which nobody asks for, are left out, for they take a third of the time."""
        return list(self.tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)

    def render(self, conversation: object) -> str:
        """A conversation as the text that the chat template makes of it; raises as ``encode_messages``."""
        values = _template_values(conversation)
        template = self._tool_template if "tools" in values else self._template
        if template is None:
            raise TextError("this model has no chat template; send text_input instead of messages")
        values |= {"add_generation_prompt": True, **self._special_tokens}
        token = _BUDGET.set(_Budget())
        try:
            pieces = []
            for piece in template.generate(**values):
                _BUDGET.get().spend(len(piece))
                pieces.append(piece)
            return "".join(pieces)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            if isinstance(error, TextError):
                raise
            raise TextError(f"the chat template refuses these messages: {error}") from error
        except RecursionError as error:
            raise TextError("the chat template calls itself without end; mend chat_template") from error
        finally:
            _BUDGET.reset(token)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))


def _template_values(conversation: object) -> dict[str, Any]:
    """What a template is given of a conversation."""
    if not isinstance(conversation, dict):
        return {"messages": _checked_messages(conversation)}
    strange = next((key for key in conversation if key not in _CONVERSATION), None)
    if strange is not None:
        raise TextError(f"messages has {strange!r}; an object of messages may have {', '.join(_CONVERSATION)}")
    tools, further = conversation.get("tools"), conversation.get("chat_template_kwargs")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise TextError("messages.tools must be a list of objects that describe functions")
    if further is not None and not isinstance(further, dict):
        raise TextError("messages.chat_template_kwargs must be an object of the chat template's variables")
    return {
        **(further or {}),
        "messages": _checked_messages(conversation.get("messages")),
        **({"tools": tools} if tools else {}),
    }


def _checked_messages(messages: object) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise TextError('messages must be a list of at least one {"role": ..., "content": ...} object')
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            raise TextError(f"messages[{position}] must be an object, not {type(message).__name__}")
        for key in ("role", "content"):
            calls_instead = key == "content" and message.get(key) is None and message.get("tool_calls")
            if not (isinstance(message.get(key), str) or calls_instead):
                raise TextError(f"messages[{position}].{key} must be a string, not {type(message.get(key)).__name__}")
    return messages


def _token_text(token: object) -> str:
    """Text of a special token, which a tokenizer config gives as a string or as an object with ``content``."""
    return str(token["content"]) if isinstance(token, dict) else str(token)


def _find_templates(folder: Path, config: dict[str, Any]) -> tuple[str | None, str | None]:
    """The chat template, and the one for conversations with tools where there is one of its own."""
    file = folder / CHAT_TEMPLATE_FILE
    if file.is_file():
        _check_size(file, MAX_CONFIG_BYTES)
        return file.read_text(encoding="utf-8"), None
    template = config.get("chat_template")
    named = {entry["name"]: entry["template"] for entry in template} if isinstance(template, list) else {}
    chosen = (named.get("default"), named.get("tool_use")) if named else (template, None)
    return chosen[0] if isinstance(chosen[0], str) else None, chosen[1] if isinstance(chosen[1], str) else None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    _check_size(path, MAX_CONFIG_BYTES)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TextError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise TextError(f"{path} holds a JSON {type(config).__name__}, not an object")
    return config


def _check_size(path: Path, limit: int) -> None:
    size = path.stat().st_size
    if size > limit:
        raise TextError(f"{path} has {size} bytes; at most {limit} are read, for no tokenizer needs more")


class _Budget:
    """What one rendering may still do; a template that asks for more is refused before it is computed."""

    def __init__(self) -> None:
        self._steps = MAX_TEMPLATE_STEPS
        self._characters = MAX_TEMPLATE_CHARACTERS
        self._end = time.monotonic() + MAX_TEMPLATE_S

    def step(self) -> None:
        """Count a turn of a loop or a call."""
        self._steps -= 1
        if self._steps < 0 or time.monotonic() > self._end:
            raise TextError("the chat template takes too long; it may loop without end: mend chat_template")

    def spend(self, characters: int) -> None:
        """Count text, or items, that are made."""
        self._characters -= characters
        if self._characters < 0:
            raise TextError(f"the chat template makes more than {MAX_TEMPLATE_CHARACTERS} characters; mend it")


_BUDGET: Final[ContextVar[_Budget]] = ContextVar("_BUDGET")


class _TemplateEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A sandbox that also bounds what a template computes: loops, calls, and the sizes of what it makes.

    Jinja's own sandbox keeps attributes and the process safe, but takes nested loops, ``"a" * 10**10`` and their like.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        """Every loop and every ``~`` goes through a filter that a template cannot replace."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(jinja2.nodes.For):
            loop.iter = _filtered(loop.iter, _TURNS, loop)
        for joined in tree.find_all(jinja2.nodes.Concat):
            joined.nodes = [_filtered(node, _PIECES, joined) for node in joined.nodes]
        return tree

    def call(self, context: jinja2.runtime.Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Count the call, and refuse numbers and texts that only make a result huge."""
        subject = getattr(getattr(function, "__wrapped__", function), "__self__", None)  # Jinja wraps str.format
        _check_call(subject, getattr(function, "__name__", ""), (*args, *kwargs.values()))
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Bound what an operator makes."""
        budget = _BUDGET.get()
        budget.step()
        if operator == "+" and isinstance(left, str | list | tuple):
            budget.spend(len(left))
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(other, int):
                    budget.spend(len(one) * max(0, other))
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator == "**" and not (_is_small(left) and _is_small(right)):
            raise TextError("the chat template raises too large a number to a power; mend it")
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and result.bit_length() > _MAX_BITS:
            raise TextError("the chat template computes with too large a number; mend it")
        return result


def _filtered(node: Any, name: str, place: jinja2.nodes.Node) -> jinja2.nodes.Filter:
    return jinja2.nodes.Filter(node, name, [], [], None, None, lineno=place.lineno, environment=place.environment)


def _turns(items: Iterable[Any]) -> Any:
    """The items of a loop, counted as they come; the loop still sees a list's length."""
    budget = _BUDGET.get()
    budget.step()
    listed = items if isinstance(items, list | tuple | dict | str) else list(items)
    for _ in listed:
        budget.step()
    return listed


def _piece(value: object) -> object:
    text = str(value)
    _BUDGET.get().spend(len(text))
    return value


def _check_call(subject: object, name: str, arguments: tuple[Any, ...]) -> None:
    """Count a call of a function or a filter and bound what it makes; ``subject`` is what a method belongs to."""
    budget = _BUDGET.get()
    budget.step()
    if any(isinstance(value, int) and abs(value) > MAX_TEMPLATE_CHARACTERS for value in arguments):
        raise TextError(f"the chat template calls {name or 'a function'} with too large a number; mend it")
    budget.spend(sum(abs(value) for value in arguments if isinstance(value, int)) if name in _PADDERS else 0)
    if isinstance(subject, str):
        budget.spend(len(subject))
        if name in ("format", "format_map"):
            _check_format(subject)
        texts = [len(value) for value in arguments if isinstance(value, str)]
        if name == "replace" and len(texts) > 1:
            budget.spend((len(subject) + 1) * texts[1])
        if name == "join" and arguments and isinstance(arguments[0], list | tuple):
            budget.spend(sum(len(str(item)) + len(subject) for item in arguments[0]))


def _guarded(name: str, function: Any) -> Any:
    """A filter that is counted and bounded as a call is."""

    @functools.wraps(function)  # keeps the marks by which Jinja passes its context
    def guarded(*args: Any, **kwargs: Any) -> Any:
        given = args[1:] if getattr(function, "jinja_pass_arg", None) is not None else args
        value, rest = (given[0] if given else None), (*given[1:], *kwargs.values())
        if name == "join" and isinstance(value, list | tuple):
            _check_call(next((part for part in rest if isinstance(part, str)), ""), "join", (value,))
        else:
            _check_call(value, name, rest)
        return function(*args, **kwargs)

    return guarded


def _check_format(form: str) -> None:
    """Refuse widths of five digits and more, or given beside the form."""
    if re.search(r"\d{5}|\*|\{[^{}]*\{", form):
        raise TextError("the chat template formats with too large a width; mend it")


def _is_small(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < _SMALL)


def _compile_template(source: str) -> jinja2.Template:
    """The environment that transformers gives chat templates, sandboxed and bounded."""
    if len(source) > MAX_TEMPLATE_CHARACTERS:
        raise TextError(f"the chat template has {len(source)} characters; at most {MAX_TEMPLATE_CHARACTERS} are read")
    environment = _TemplateEnvironment(
        # not optimised: constants would be computed, without any bound, while compiling
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols], optimized=False,
    )  # fmt: skip
    environment.filters["tojson"] = _to_json
    environment.filters = {name: _guarded(name, function) for name, function in environment.filters.items()}
    environment.filters |= {_TURNS: _turns, _PIECES: _piece}
    environment.globals.pop("lipsum")
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    try:
        return environment.from_string(source)
    except (jinja2.TemplateError, RecursionError, MemoryError, SyntaxError) as error:
        raise TextError(f"the chat template is not valid Jinja: {error}") from error


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TextError(f"the chat template refuses these messages: {message}")
