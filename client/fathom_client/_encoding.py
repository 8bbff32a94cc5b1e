"""One call of an encoder: its rows of texts cut into batches that share a deadline."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tritonclient.grpc import service_pb2

from fathom_client import _requests, protocol
from fathom_client._options import INT32_MAX, check_integer, check_text
from fathom_client._status import CallContext, late_texts
from fathom_client._timeouts import check_seconds


@dataclass(frozen=True, slots=True)
class EncodePlan:
    """Checked arguments of ``embed``, ``rerank`` or ``classify``; the time runs from when it is made.

    ``columns`` are the texts of all rows by the name of their tensor. ``request_id`` is the id of the one request, or,
    where there are several, what the ids of all begin with.
    """

    context: CallContext
    columns: Mapping[str, Sequence[bytes]]
    truncate: bool
    batch_size: int | None
    request_id: str | None
    begin_s: float = field(default_factory=time.monotonic)

    @property
    def deadline_s(self) -> float | None:
        """When the time is up, on the clock of ``time.monotonic``."""
        return None if self.context.timeout_s is None else self.begin_s + self.context.timeout_s

    def batches(self, batch_size: int, rows: range | None = None) -> list[service_pb2.ModelInferRequest]:
        """One request a batch, in order, of all rows or of some that lie side by side.

        Where one does not hold all rows, the id that the caller chose ends with the number of its first row.
        """
        chosen = range(self._rows) if rows is None else rows
        return [
            _requests.encode_request(
                self.context.model or "",
                {name: texts[begin : min(begin + batch_size, chosen.stop)] for name, texts in self.columns.items()},
                self.truncate,
                self._request_id(begin, batch_size),
            )
            for begin in range(chosen.start, chosen.stop, batch_size)
        ]

    def context_of(self, request: service_pb2.ModelInferRequest) -> CallContext:
        """The context of one batch, for its errors."""
        return replace(self.context, request_id=request.id)

    def give_time(self, request: service_pb2.ModelInferRequest) -> None:
        """Tell a request what time is left. Raises DeadlineExceededError."""
        if self.deadline_s is None:
            return
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise late_texts(self.context_of(request))
        _requests.set_timeout(request, left_s)

    @property
    def _rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def _request_id(self, first_row: int, batch_size: int) -> str | None:
        if self.request_id is None or batch_size >= self._rows:
            return self.request_id
        return f"{self.request_id}-{first_row}"


def embed_columns(texts: str | Sequence[str], prompt_name: str | None) -> dict[str, list[bytes]]:
    """Columns of ``embed``; raises InvalidArgumentError."""
    rows = _requests.utf8_texts("texts", texts)
    prompts = (
        {} if prompt_name is None else {protocol.PROMPT_NAME: [check_text("prompt_name", prompt_name)] * len(rows)}
    )
    return {protocol.TEXT_INPUT: rows, **prompts}


def rerank_columns(query: str, documents: Sequence[str]) -> dict[str, list[bytes]]:
    """Columns of ``rerank``: the query in every row; raises InvalidArgumentError."""
    rows = _requests.utf8_texts("documents", documents)
    return {protocol.QUERY: [check_text("query", query)] * len(rows), protocol.DOCUMENT: rows}


def classify_columns(texts: str | Sequence[str]) -> dict[str, list[bytes]]:
    """Columns of ``classify``; raises InvalidArgumentError."""
    return {protocol.TEXT_INPUT: _requests.utf8_texts("texts", texts)}


def plan_encode(
    url: str,
    model: str,
    columns: Mapping[str, Sequence[bytes]],
    truncate: bool,
    batch_size: int | None,
    timeout_s: float | None,
    request_id: str | None,
) -> EncodePlan:
    """Check the other arguments of an encoder's call; raises InvalidArgumentError."""
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1, INT32_MAX)
    if timeout_s is not None:
        check_seconds("timeout_s", timeout_s)
    if request_id is not None:
        check_text("request_id", request_id)
    context = CallContext(url, _requests.check_model(model), timeout_s=timeout_s)
    return EncodePlan(context, columns, truncate, batch_size, request_id)
