"""How ``fathom-client`` ends."""

import sys
from typing import Final

from fathom_client._commands.console import harmless
from fathom_client.errors import FathomError, InvalidArgumentError, InvalidRequestError, ModelNotFoundError

DONE: Final = 0
SERVER_FAULT: Final = 1
"""The server's fault, a server that is not ready, or a failed line among ``--jsonl``'s."""
USER_FAULT: Final = 2
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
"""128 and the number of SIGINT or SIGPIPE, as shells tell of a program that a signal ended."""

_USER_FAULTS: Final = (InvalidArgumentError, InvalidRequestError, ModelNotFoundError)


def report(error: FathomError) -> int:
    """Print an error on one line of stderr; returns the exit status that goes with it."""
    print(f"error: {harmless(' '.join(str(error).split()))}", file=sys.stderr)
    return USER_FAULT if isinstance(error, _USER_FAULTS) else SERVER_FAULT


def with_place(error: FathomError, place: str) -> FathomError:
    """The same error, saying where its cause stands."""
    return type(error)(f"{place}: {error}", code=error.code, model=error.model, request_id=error.request_id)
