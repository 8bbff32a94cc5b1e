"""Names of the engine's metrics on Triton's metrics port; each carries the label ``model``."""

from typing import Final

REQUESTS_RUNNING: Final = "fathom_num_requests_running"
REQUESTS_WAITING: Final = "fathom_num_requests_waiting"
