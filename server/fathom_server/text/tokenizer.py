"""A checkpoint's tokenizer and chat template, read from ``tokenizer.json`` and ``tokenizer_config.json``.

Export copies this file beside every tokenizer model as ``fathom_text.py``, so it imports nothing of ``fathom_server``:
only ``tokenizers`` and ``jinja2``. It gives the ids that transformers gives for the same text and messages.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
from tokenizers import Tokenizer

TOKENIZER_FILE: Final = "tokenizer.json"
TOKENIZER_CONFIG_FILE: Final = "tokenizer_config.json"
CHAT_TEMPLATE_FILE: Final = "chat_template.jinja"

_SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TextError(ValueError):
    """The caller's text or messages cannot be turned into tokens; the message says why and what would do."""


class TextTokenizer:
    """Tokenizer and chat template of one checkpoint. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, config: dict[str, Any], chat_template: str | None) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self._special_tokens = {
            name: _token_text(config[name]) for name in _SPECIAL_TOKENS if config.get(name) is not None
        }
        self._template = _compile_template(chat_template) if chat_template is not None else None

    @classmethod
    def load(cls, folder: Path) -> "TextTokenizer":
        """Read a folder's tokenizer files.

        Raises FileNotFoundError without ``tokenizer.json`` and TextError where a file cannot be read.
        """
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise TextError(f"{path} is not a tokenizer: {error}") from error
        config_path = folder / TOKENIZER_CONFIG_FILE
        try:
            config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.is_file() else {}
        except ValueError as error:
            raise TextError(f"{config_path} is not JSON: {error}") from error
        return cls(tokenizer, config, _find_template(folder, config))

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be encoded."""
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """Ids of one text, with the special tokens that the tokenizer adds by itself."""
        return list(self.tokenizer.encode(text).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts, each unpadded."""
        return [list(encoding.ids) for encoding in self.tokenizer.encode_batch(list(texts))]

    def encode_rows(self, rows: Sequence[str | tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Ids and token types of several texts, or pairs of texts, each unpadded."""
        return [(list(row.ids), list(row.type_ids)) for row in self.tokenizer.encode_batch(list(rows))]

    def encode_messages(self, messages: object) -> list[int]:
        """Ids of a conversation, ready for the assistant's answer.

        ``messages`` is a list of objects with ``role`` and ``content`` strings. Raises TextError where it is not, where
        the model has no chat template, or where the template refuses it.
        """
        return list(self.tokenizer.encode(self.render(messages), add_special_tokens=False).ids)

    def render(self, messages: object) -> str:
        """A conversation as the text that the chat template makes of it; raises as ``encode_messages``."""
        if self._template is None:
            raise TextError("this model has no chat template; send text_input instead of messages")
        try:
            return self._template.render(
                messages=_checked_messages(messages), add_generation_prompt=True, **self._special_tokens
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            if isinstance(error, TextError):
                raise
            raise TextError(f"the chat template refuses these messages: {error}") from error

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))


def _checked_messages(messages: object) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise TextError('messages must be a list of at least one {"role": ..., "content": ...} object')
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            raise TextError(f"messages[{position}] must be an object, not {type(message).__name__}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise TextError(f"messages[{position}].{key} must be a string, not {type(message.get(key)).__name__}")
    return messages


def _token_text(token: object) -> str:
    """Text of a special token, which a tokenizer config gives as a string or as an object with ``content``."""
    return str(token["content"]) if isinstance(token, dict) else str(token)


def _find_template(folder: Path, config: dict[str, Any]) -> str | None:
    file = folder / CHAT_TEMPLATE_FILE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _compile_template(source: str) -> jinja2.Template:
    """The environment that transformers gives chat templates, sandboxed."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TextError(f"the chat template is not valid Jinja: {error}") from error


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TextError(f"the chat template refuses these messages: {message}")
