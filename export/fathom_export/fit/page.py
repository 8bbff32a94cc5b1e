"""The answer as one HTML page that needs nothing else."""

from collections.abc import Sequence
from html import escape
from typing import Final

from fathom_export.fit import pictures
from fathom_export.fit.answer import Answer
from fathom_export.fit.pictures import Point, Stack, memory_stack, roofline
from fathom_export.fit.plan import Candidate, gib
from fathom_export.fit.table import describe
from fathom_export.fit.workload import Workload
from fathom_server.sizing.roofline import Accelerator, Machine, StepLoad
from fathom_server.sizing.served import ServedProcessor

MOST_STACKS: Final = 6

_STYLE: Final = f"""
:root {{ color-scheme: light; }}
body {{ margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 62rem; color: {pictures.INK}; background: #fff;
  font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.35rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.05rem; margin: 2rem 0 .5rem; }}
p.soft, caption, li {{ color: {pictures.SOFT}; }}
p.choice {{ border-left: 4px solid #1f5f8b; padding: .4rem .8rem; background: #f1f4f6; }}
p.bad {{ border-left: 4px solid {pictures.BAD}; padding: .4rem .8rem; background: #fbf0ee; }}
.pictures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1.5rem; }}
figure {{ margin: 0; }} figcaption {{ color: {pictures.SOFT}; font-size: .85rem; }} svg {{ width: 100%; height: auto; }}
ul.key {{ list-style: none; padding: 0; margin: .3rem 0; display: flex; flex-wrap: wrap; gap: .1rem 1rem; }}
ul.key li {{ font-size: .85rem; }}
ul.key span {{ display: inline-block; width: .8em; height: .8em; margin-right: .35em; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }}
th, td {{ padding: .25rem .7rem .25rem 0; border-bottom: 1px solid {pictures.RULE}; }}
th, td {{ text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
td.bad {{ color: {pictures.BAD}; }}
"""


def as_page(answer: Answer) -> str:
    """A page with the choice, the memory stack, the roofline, every target, and the notes."""
    shape, workload = answer.source.shape, answer.workload
    title = f"{answer.source.given}: will it fit?"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{shape.parameters / 1e6:,.1f} M weights ({escape(answer.source.model_type)}); requests of '
        f"{workload.prompt_tokens:,} + {workload.generated_tokens:,} tokens</p>",
    ]
    if answer.chosen is not None:
        body.append(f'<p class="choice">{escape(describe(answer.chosen, workload))}</p>')
    if answer.shortfall is not None:
        body.append(f'<p class="bad">Nothing meets this: {escape(answer.shortfall)}</p>')
    body.append('<div class="pictures">')
    stacks = _stacks(answer)
    if stacks:
        key = "".join(
            f'<li><span style="background:{colour}"></span>{escape(name)}</li>'
            for (name, _), colour in zip(stacks[0].memory.parts, pictures.COLOURS, strict=True)
        )
        body.append(
            f"<figure><h2>Memory</h2>{memory_stack(stacks)}<ul class=key>{key}</ul><figcaption>The red line is the "
            "memory that there is.</figcaption></figure>"
        )
    body += [_roofline_figure(one, workload) for one in _drawn(answer)]
    body.append("</div>")
    if answer.forms:
        body.append(_memory_table(answer))
    if answer.candidates:
        body.append(_target_table(answer))
    if answer.notes:
        body.append("<h2>What this rests on</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in answer.notes))
        body.append("</ul>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _stacks(answer: Answer) -> list[Stack]:
    stacks = [Stack(f"CPU, {form.form.precision}", form.memory, form.limit_bytes) for form in answer.forms]
    for one in (*answer.ranked, *(each for each in answer.candidates if not each.meets)):
        if one.target.gpu is not None and len(stacks) < MOST_STACKS:
            stacks.append(Stack(f"{one.target.title}, {one.form.precision}", one.memory, one.target.memory_bytes))
    return stacks


def _drawn(answer: Answer) -> list[Candidate]:
    """Whose roofline is drawn: the best candidate's, else that of the first whose speed is known."""
    known = [one for one in (*answer.ranked, *answer.candidates) if one.service is not None]
    return known[:1]


def _roofline_figure(one: Candidate, workload: Workload) -> str:
    machine, service = one.machine, one.service
    if machine is None or service is None:
        return ""
    bandwidth, rate = _roof(machine, one.form.precision)
    context = workload.prompt_tokens + workload.generated_tokens / 2
    loads = [("decode, 1 at once", StepLoad(1, context, 1, 1))]
    if service.batch > 1:
        loads.append((f"decode, {service.batch} at once", StepLoad(service.batch, context, 1, service.batch)))
    loads.append((f"prefill of {workload.prompt_tokens}", StepLoad(1, 0, workload.prompt_tokens, 1)))
    points = [_point(one, machine, label, load) for label, load in loads]
    picture = roofline(bandwidth, rate, points, one.target.title)
    return (
        f"<figure><h2>Roofline, {escape(one.target.title)}, {one.form.precision}</h2>{picture}<figcaption>Left of "
        "the corner memory binds, right of it the matrix units. What takes longest in prefill: "
        f"{escape(service.prefill_binds)}; in decode: {escape(service.decode_binds)}.</figcaption></figure>"
    )


def _roof(machine: Machine, precision: str) -> tuple[float, float]:
    """Bytes and operations a second of a machine's best."""
    if isinstance(machine, Accelerator):
        return machine.bandwidth_bytes_per_s, machine.operations_per_s[precision]
    if isinstance(machine, ServedProcessor):
        rates = machine.processor.products[precision]
        fastest = min(curve(curve.at[-1]) for curve in rates.curves)
        return machine.processor.bandwidth_bytes_per_s, 2 * rates.curves[0].at[-1] / fastest
    raise TypeError(f"no roof is known of {type(machine).__name__}")


def _point(one: Candidate, machine: Machine, label: str, load: StepLoad) -> Point:
    shape, form = one.shape, one.form
    layers = shape.layers * sum(form.product_bytes(product) for product in shape.layer_products)
    moved = (
        layers + form.head_bytes(shape) + load.sequences * (load.past + load.new) * form.cache_bytes_per_token(shape)
    )
    operations = 2 * load.rows * shape.layer_weights + 2 * load.logits * shape.lm_head.weights
    seen = shape.seen_tokens(load.past + (load.new + 1) / 2)
    operations += round(4 * load.rows * seen * shape.layers * shape.heads * shape.head_dim)
    return Point(label, operations / moved, operations / machine.step(shape, form, load).seconds)


def _memory_table(answer: Answer) -> str:
    head = "".join(f"<th>{form.form.precision}</th>" for form in answer.forms)
    rows: list[tuple[str, Sequence[str]]] = [
        (name, [gib(form.memory.parts[place][1]) for form in answer.forms])
        for place, (name, _) in enumerate(answer.forms[0].memory.parts)
    ]
    rows += [
        ("total", [gib(form.memory.total) for form in answer.forms]),
        ("cache of a token", [f"{form.cache_bytes_per_token / 1024:.1f} KiB" for form in answer.forms]),
        ("cache of a request", [gib(form.cache_bytes_per_request) for form in answer.forms]),
        ("most requests at once", [f"{form.most_requests:,}" for form in answer.forms]),
        ("longest context", [f"{form.longest_context:,}" for form in answer.forms]),
    ]
    cells = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{value}</td>' for value in values)}</tr>" for name, values in rows
    )
    return (
        f"<h2>Memory on a CPU, {answer.forms[0].requests} at once</h2><div class=scroll><table><tr><th></th>{head}</tr>"
        f"{cells}</table></div>"
    )


def _target_table(answer: Answer) -> str:
    names = ("target", "precision", "GPUs", "memory of each", "fit at once", "at once", "TTFT", "ITL", "tokens/s",
             "replicas", "per million", "source")  # fmt: skip
    shown = [*answer.ranked, *(one for one in answer.candidates if one not in answer.ranked)]
    rows = "".join(f"<tr>{_cells(one, answer.workload)}</tr>" for one in shown)
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<h2>Targets, best first</h2><div class=scroll><table><tr>{head}</tr>{rows}</table></div>"


def _cells(one: Candidate, workload: Workload) -> str:
    service, cost = one.service, one.cost_per_million_tokens(workload)
    bad = "" if one.fits else " class=bad"
    speed = ["<td>-</td>"] * 4
    if service is not None:
        late = {name: " class=bad" if name in one.missed else "" for name in ("ttft_ms", "itl_ms")}
        speed = [
            f"<td>{service.batch}</td>",
            f"<td{late['ttft_ms']}>{service.ttft_s * 1e3:.0f} ms</td>",
            f"<td{late['itl_ms']}>{service.itl_s * 1e3:.1f} ms</td>",
            f"<td>{service.output_tokens_per_s(workload):,.0f}</td>",
        ]
    gpu = one.target.gpu
    cells = [
        f"<td>{escape(one.target.title)}</td>",
        f"<td>{one.form.precision}</td>",
        f"<td>{'-' if gpu is None else one.ways}</td>",
        f"<td{bad}>{gib(one.memory.total)} of {gib(one.target.memory_bytes)}</td>",
        f"<td>{one.most_requests:,}</td>",
        *speed,
        f"<td>{'-' if one.replicas is None else one.replicas}</td>",
        f"<td>{'-' if cost is None else f'{cost:.2f}'}</td>",
        f"<td>{escape('' if gpu is None else gpu.source)}</td>",
    ]
    return "".join(cells)
