"""The same latencies as the client and as the server saw them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from fathom_loadtest.metrics import StageFigures
from fathom_loadtest.server_side.document import Reconciled, ServerSide

_OF_THE_ENGINE: Final = (("ttft_ms", "ttft"), ("itl_ms", "itl"), ("request_latency_ms", "e2e"))


def reconciled(server: ServerSide, figures: Mapping[str, StageFigures]) -> ServerSide:
    """Set each average latency of the client beside the server's own; ``figures`` are by model.

    An LLM's are the engine's; those of other models are Triton's request duration.
    """
    found: list[Reconciled] = []
    for model, seen in figures.items():
        engine, counted = server.engines.get(model), server.models.get(model)
        if engine is not None:
            for name, its_name in _OF_THE_ENGINE:
                client, its_own = getattr(seen, name), getattr(engine, its_name)
                if client is not None and its_own is not None:
                    found.append(_pair(name, model, client.avg, client.count, its_own.avg_ms, its_own.count))
        elif counted is not None and counted.request_ms is not None and seen.request_latency_ms is not None:
            client = seen.request_latency_ms
            found.append(
                _pair("request_latency_ms", model, client.avg, client.count, counted.request_ms, counted.requests)
            )
    notes = [
        f"{each.model}: the server counted {each.server_count} values of {each.figure}, the client "
        f"{each.client_count}: others asked it too, or answers failed or were cancelled; the difference says less then"
        for each in found
        if each.client_count != each.server_count
    ]
    return replace(server, reconciled=tuple(found), notes=(*server.notes, *notes))


def _pair(
    figure: str, model: str, client_ms: float, client_count: int, server_ms: float, server_count: int
) -> Reconciled:
    outside_ms = client_ms - server_ms
    share = outside_ms / client_ms if client_ms else 0.0
    return Reconciled(figure, model, client_ms, server_ms, outside_ms, share, client_count, server_count)
