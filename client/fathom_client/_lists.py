"""Lists whose items may fail one by one: an outcome an item, its result or its error, in the items' order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from tritonclient.grpc import service_pb2

from fathom_client import _responses
from fathom_client._encoding import EncodePlan
from fathom_client._options import GenerateOptions, check_integer, check_text
from fathom_client._results import Classification, Embeddings, Rerank
from fathom_client.errors import FathomError, InvalidArgumentError, InvalidRequestError

Result = TypeVar("Result", Embeddings, Rerank, Classification)
BatchOutcome: TypeAlias = "service_pb2.ModelInferResponse | FathomError"

CONCURRENCY = 16
"""So many of a list's requests run at once unless the caller says otherwise."""


def check_list(name: str, values: object, concurrency: int = CONCURRENCY) -> list[Any]:
    """Return the items of a list; raise InvalidArgumentError for what is none."""
    check_integer("concurrency", concurrency, 1, 1024)
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence):
        raise InvalidArgumentError(f"{name} is a {type(values).__name__}; give a list")
    return list(values)


def item_options(options: GenerateOptions, index: int) -> GenerateOptions:
    """The options of one item: a request id that the caller chose is told apart by the item's number."""
    request_id = options.get("request_id")
    if request_id is None:
        return options
    return cast("GenerateOptions", {**options, "request_id": f"{request_id}-{index}"})


class RowOutcomes:
    """The texts of ``embed_many``, ``rerank_many`` or ``classify_many``, and what became of each.

    A text that this side refuses is not sent. A batch that the server refuses is sent again text by text, so that one
    text fails and not its neighbours.
    """

    def __init__(self, name: str, texts: object) -> None:
        self._outcomes: list[Any] = []
        self._places: list[int] = []
        self.texts: list[str] = []
        for index, text in enumerate(check_list(name, texts)):
            self._outcomes.append(None)
            try:
                check_text(f"{name}[{index}]", text)
                self.texts.append(text)
                self._places.append(index)
            except InvalidArgumentError as error:
                self._outcomes[index] = error

    def take(
        self,
        read: Callable[[str, Sequence[_responses.BatchAnswer]], Result],
        plan: EncodePlan,
        batches: Sequence[service_pb2.ModelInferRequest],
        outcomes: Sequence[BatchOutcome],
        first_row: int = 0,
    ) -> list[range]:
        """Take what became of batches that lie side by side; returns the rows to send again one by one."""
        again, begin = [], first_row
        for batch, outcome in zip(batches, outcomes, strict=True):
            rows = range(begin, begin + int(batch.inputs[0].shape[0]))
            begin = rows.stop
            if isinstance(outcome, InvalidRequestError) and len(rows) > 1:
                again.append(rows)
                continue
            for row, result in zip(rows, _results_of(read, plan, batch, outcome, len(rows)), strict=True):
                self._outcomes[self._places[row]] = result
        return again

    def all(self) -> list[Any]:
        """One outcome a text, in the texts' order."""
        return self._outcomes


def _results_of(
    read: Callable[[str, Sequence[_responses.BatchAnswer]], Result],
    plan: EncodePlan,
    batch: service_pb2.ModelInferRequest,
    outcome: BatchOutcome,
    size: int,
) -> Sequence[Result | FathomError]:
    if isinstance(outcome, FathomError):
        return [outcome] * size
    try:
        return [*read(plan.context.model or "", [(outcome, batch)]).rows()]
    except FathomError as error:
        return [error] * size
