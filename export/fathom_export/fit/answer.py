"""What ``fathom-fit`` found out, before it is put into any form."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from fathom_export.fit.plan import Candidate
from fathom_export.fit.source import SizedSource
from fathom_export.fit.workload import Workload
from fathom_server.sizing.form import EngineForm
from fathom_server.sizing.memory import EngineMemory, Load, Memory

SCHEMA: Final = "fathom-fit/1"


@dataclass(frozen=True, slots=True)
class FormMemory:
    """One precision's memory on one kind of machine, of ``requests`` at once.

    ``most_requests`` of these lengths fit into ``limit_bytes``, and at this number each of up to ``longest_context``
    tokens, which the model itself bounds.
    """

    form: EngineForm
    requests: int
    memory: Memory
    cache_bytes_per_token: int
    cache_bytes_per_request: int
    limit_bytes: int
    most_requests: int
    longest_context: int

    @classmethod
    def of(
        cls, sized: EngineMemory, workload: Workload, requests: int, limit_bytes: int, context_limit: int
    ) -> "FormMemory":
        """Compute it."""
        load = Load(requests, workload.prompt_tokens, workload.generated_tokens)
        each = sized.cache_bytes_per_token
        return cls(
            form=sized.form,
            requests=requests,
            memory=sized.sized_for(load).under(load),
            cache_bytes_per_token=each,
            cache_bytes_per_request=each * sized.cache_tokens(load.context),
            limit_bytes=limit_bytes,
            most_requests=sized.largest_requests(load, limit_bytes),
            longest_context=min(context_limit, sized.longest_context(requests, limit_bytes)),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that is shown.

    ``forms`` is the memory on the CPU at hand (or of the given size), ``candidates`` every target, ``ranked`` those
    that meet the workload, best first; ``notes`` say what the figures rest on. ``shortfall`` says what comes nearest
    where nothing meets it.
    """

    source: SizedSource
    workload: Workload
    forms: tuple[FormMemory, ...]
    candidates: tuple[Candidate, ...]
    ranked: tuple[Candidate, ...]
    notes: tuple[str, ...]
    shortfall: str | None

    @property
    def chosen(self) -> Candidate | None:
        """The best candidate; None where nothing meets the workload."""
        return self.ranked[0] if self.ranked else None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values: bytes, seconds, and figures a second."""
        source = self.source
        return {
            "schema": SCHEMA,
            "source": {"given": source.given, "revision": source.revision, "model_type": source.model_type},
            "shape": asdict(source.shape),
            "parameters": source.shape.parameters,
            "stored_bytes": source.stored_bytes,
            "context_limit": source.context_limit,
            "workload": asdict(self.workload),
            "memory": [_form_json(form) for form in self.forms],
            "candidates": [_candidate_json(one, self.workload) for one in self.candidates],
            "ranked": [self.candidates.index(one) for one in self.ranked],
            "notes": list(self.notes),
            "shortfall": self.shortfall,
        }


def _form_json(form: FormMemory) -> dict[str, Any]:
    return {**asdict(form), "memory": _memory_json(form.memory)}


def _memory_json(memory: Memory) -> Mapping[str, int]:
    return {**asdict(memory), "total": memory.total}


def _candidate_json(one: Candidate, workload: Workload) -> dict[str, Any]:
    service = one.service
    return {
        "target": one.target.name,
        "title": one.target.title,
        "source": None if one.target.gpu is None else one.target.gpu.source,
        "precision": one.form.precision,
        "engine": one.engine,
        "tensor_parallel": one.ways,
        "memory_limit_bytes": one.target.memory_bytes,
        "memory": _memory_json(one.memory),
        "most_requests": one.most_requests,
        "service": None if service is None else asdict(service),
        "output_tokens_per_s": None if service is None else service.output_tokens_per_s(workload),
        "missed": dict(one.missed),
        "replicas": one.replicas,
        "machines": one.machines,
        "price_per_hour": one.price_per_hour,
        "cost_per_million_tokens": one.cost_per_million_tokens(workload),
    }
