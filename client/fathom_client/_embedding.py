"""One ``embed``: its texts cut into batches that share a deadline."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tritonclient.grpc import service_pb2

from fathom_client import _requests
from fathom_client._options import INT32_MAX, check_integer
from fathom_client._status import CallContext, late_embed
from fathom_client._timeouts import GRACE_S, check_seconds


@dataclass(frozen=True, slots=True)
class EmbedPlan:
    """Checked arguments of ``embed``; the time runs from when it is made."""

    context: CallContext
    texts: Sequence[bytes]
    truncate: bool
    batch_size: int | None
    begin_s: float = field(default_factory=time.monotonic)

    def batches(self, batch_size: int) -> list[service_pb2.ModelInferRequest]:
        """One request a batch, in order."""
        return [
            _requests.embed_request(self.context.model or "", self.texts[begin : begin + batch_size], self.truncate)
            for begin in range(0, len(self.texts), batch_size)
        ]

    def context_of(self, request: service_pb2.ModelInferRequest) -> CallContext:
        """The context of one batch, for its errors."""
        return replace(self.context, request_id=request.id)

    def give_time(self, request: service_pb2.ModelInferRequest) -> float | None:
        """Tell a request what time is left; return its call's limit in seconds. Raises DeadlineExceededError."""
        if self.context.timeout_s is None:
            return None
        left_s = self.begin_s + self.context.timeout_s - time.monotonic()
        if left_s <= 0:
            raise late_embed(self.context_of(request))
        _requests.set_timeout(request, left_s)
        return left_s + GRACE_S


def plan_embed(
    url: str,
    model: str,
    texts: str | Sequence[str],
    truncate: bool,
    batch_size: int | None,
    timeout_s: float | None,
) -> EmbedPlan:
    """Check the arguments of ``embed``; raises InvalidArgumentError."""
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1, INT32_MAX)
    if timeout_s is not None:
        check_seconds("timeout_s", timeout_s)
    context = CallContext(url, _requests.check_model(model), timeout_s=timeout_s)
    return EmbedPlan(context, _requests.embed_texts(texts), truncate, batch_size)
