"""Names of the gateway's metrics and of their labels; dashboards and alert rules import them."""

from typing import Final

REQUESTS: Final = "fathom_gateway_requests_total"
REQUEST_DURATION: Final = "fathom_gateway_request_duration_seconds"
TIME_TO_FIRST_TOKEN: Final = "fathom_gateway_time_to_first_token_seconds"  # noqa: S105 (a metric)
INPUT_TOKENS: Final = "fathom_gateway_input_tokens_total"
OUTPUT_TOKENS: Final = "fathom_gateway_output_tokens_total"
REQUESTS_IN_FLIGHT: Final = "fathom_gateway_requests_in_flight"
REJECTED: Final = "fathom_gateway_rejected_total"
CONNECTIONS: Final = "fathom_gateway_connections"
TARGET_READY: Final = "fathom_gateway_target_ready"

ROUTE: Final = "route"
STATUS: Final = "status"
KEY: Final = "key"
REASON: Final = "reason"
