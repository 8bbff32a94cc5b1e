"""Where a cascade finds the Triton that it runs in."""

import os
from typing import Final

GRPC_VARIABLE: Final = "FATHOM_GRPC_ADDRESS"
"""host:port of Triton's gRPC, which ``fathom-serve`` tells its models."""

_DEFAULT_ADDRESS: Final = "127.0.0.1:8001"


def own_address() -> str:
    """The address of this process's Triton: Triton's own port where nothing was told."""
    return os.environ.get(GRPC_VARIABLE, _DEFAULT_ADDRESS)
