"""The fields of a request behind the names by which the server's refusals call them."""

import contextlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from fathom_client.errors import InvalidArgumentError, InvalidRequestError
from fathom_server.gateway.errors import InvalidApiRequestError

_PROMPT: Final = ("input_ids", "prompt", "text_input", "the prompt", "the chat template")
_STRUCTURE: Final = ("json_schema", "structured_outputs")
_STOP: Final = "stop_words"


@dataclass(frozen=True, slots=True)
class FieldNames:
    """The fields that an endpoint knows, and the one by which the request asks for a structure, if it does."""

    known: Collection[str]
    structure: str | None

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Turn the server's refusals into the API's, naming the field by which the message begins."""
        try:
            yield
        except (InvalidArgumentError, InvalidRequestError) as error:
            message = str(error).removeprefix(f"{error.model}: ")
            raise InvalidApiRequestError(message, param=self._field(message), code="invalid_value") from error

    def _field(self, message: str) -> str | None:
        begin = re.match(r"[a-z_]+", message)
        name = "" if begin is None else begin[0]
        if name in _STRUCTURE:
            return self.structure
        if message.startswith(_PROMPT):
            name = "prompt" if "prompt" in self.known else "messages"
        elif name == _STOP:
            name = "stop"
        return name if name in self.known else None
