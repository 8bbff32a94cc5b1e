"""The answer as text for a terminal."""

from collections.abc import Sequence
from typing import Final

from fathom_export.fit.answer import Answer, FormMemory
from fathom_export.fit.plan import Candidate, gib
from fathom_export.fit.workload import Workload

MOST_ROWS: Final = 12


def as_table(answer: Answer) -> str:
    """Model, memory by part, targets, and what the figures rest on."""
    shape, workload = answer.source.shape, answer.workload
    lines = [
        f"{answer.source.given}: {shape.parameters / 1e6:,.1f} M weights ({answer.source.model_type}), context up to "
        f"{answer.source.context_limit:,} tokens",
        f"requests of {workload.prompt_tokens:,} + {workload.generated_tokens:,} tokens{_asked(workload)}",
    ]
    if answer.forms:
        requests = answer.forms[0].requests
        lines += ["", f"memory on a CPU with {gib(answer.forms[0].limit_bytes)}, {requests} at once:", ""]
        lines += _grid(_memory_rows(answer.forms))
    if answer.candidates:
        shown = [*answer.ranked, *(one for one in answer.candidates if one not in answer.ranked)]
        lines += ["", "targets, best first:", ""]
        lines += _grid([_HEAD, *(_row(one, workload) for one in shown[:MOST_ROWS])])
        if len(shown) > MOST_ROWS:
            lines.append(f"… and {len(shown) - MOST_ROWS} more (--output json has all)")
    lines.append("")
    if answer.chosen is not None:
        lines.append(f"choose: {describe(answer.chosen, workload)}")
    if answer.shortfall is not None:
        lines.append(f"nothing meets this: {answer.shortfall}")
    lines += [f"note: {note}" for note in answer.notes]
    return "\n".join(lines)


def describe(one: Candidate, workload: Workload) -> str:
    """A candidate in a sentence."""
    replicas = "" if one.replicas is None else f"{one.replicas} x "
    text = f"{replicas}{one.target.title}, {one.form.precision}"
    if one.ways > 1:
        text += f", tensor parallel over {one.ways} (engine vllm)"
    if one.service is not None:
        text += (
            f": {one.service.batch} at once each, TTFT {one.service.ttft_s * 1e3:.0f} ms, ITL "
            f"{one.service.itl_s * 1e3:.1f} ms, {one.service.output_tokens_per_s(workload):,.0f} tokens/s each"
        )
    cost = one.cost_per_million_tokens(workload)
    if cost is not None:
        text += f", {cost:.2f} a million tokens"
    return text


_HEAD: Final = (
    "target", "precision", "GPUs", "memory of each", "fit at once", "at once", "TTFT ms", "ITL ms", "tokens/s",
    "prefill: decode bound by", "replicas", "per million",
)  # fmt: skip


def _row(one: Candidate, workload: Workload) -> tuple[str, ...]:
    service = one.service
    cost = one.cost_per_million_tokens(workload)
    speed = ("-", "-", "-", "-", "not known" if one.fits else "does not fit")
    if service is not None:
        marks = {name: "!" if name in one.missed else "" for name in ("ttft_ms", "itl_ms")}
        speed = (
            str(service.batch),
            f"{service.ttft_s * 1e3:.0f}{marks['ttft_ms']}",
            f"{service.itl_s * 1e3:.1f}{marks['itl_ms']}",
            f"{service.output_tokens_per_s(workload):,.0f}",
            f"{service.prefill_binds}: {service.decode_binds}",
        )
    gpus = "-" if one.target.gpu is None else str(one.ways)
    memory = f"{gib(one.memory.total)} of {gib(one.target.memory_bytes)}"
    replicas = "-" if one.replicas is None else str(one.replicas)
    price = "-" if cost is None else f"{cost:.2f}"
    return (one.target.title, one.form.precision, gpus, memory, f"{one.most_requests:,}", *speed, replicas, price)


def _memory_rows(forms: Sequence[FormMemory]) -> list[tuple[str, ...]]:
    rows = [("", *(form.form.precision for form in forms))]
    for place, (name, _) in enumerate(forms[0].memory.parts):
        rows.append((name, *(gib(form.memory.parts[place][1]) for form in forms)))
    rows.append(("total", *(gib(form.memory.total) for form in forms)))
    rows.append(("cache of a token", *(f"{form.cache_bytes_per_token / 1024:.1f} KiB" for form in forms)))
    rows.append(("cache of a request", *(gib(form.cache_bytes_per_request) for form in forms)))
    rows.append(("most at once", *(f"{form.most_requests:,}" for form in forms)))
    rows.append(("longest context", *(f"{form.longest_context:,}" for form in forms)))
    return rows


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _asked(workload: Workload) -> str:
    parts = []
    if workload.requests is not None:
        parts.append(f"{workload.requests} at once")
    if workload.rate is not None:
        parts.append(f"{workload.rate:g} a second")
    parts += [f"{name} up to {value:g}" for name, value in workload.objectives.given().items()]
    return "" if not parts else ", " + ", ".join(parts)
