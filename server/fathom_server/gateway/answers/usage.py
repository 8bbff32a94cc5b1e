"""Numbers of tokens of a request's generations."""

from collections.abc import Iterable
from typing import Any

from fathom_client import Generation
from fathom_server.gateway.edge.request_record import RequestRecord


def usage_of(generations: Iterable[Generation], record: RequestRecord) -> dict[str, Any]:
    """OpenAI's ``usage``; the request's record learns the numbers."""
    listed = list(generations)
    record.input_tokens = sum(each.num_input_tokens for each in listed)
    record.output_tokens = sum(each.num_output_tokens for each in listed)
    return {
        "prompt_tokens": record.input_tokens,
        "completion_tokens": record.output_tokens,
        "total_tokens": record.input_tokens + record.output_tokens,
    }
