"""Pictures of an answer as inline SVG: the memory stack and the roofline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from fathom_export.fit.plan import gib
from fathom_server.sizing.memory import Memory

COLOURS: Final = ("#1f5f8b", "#c9772b", "#e3b23c", "#5b8c5a", "#8a6fb0", "#7d8794", "#c4cad1")
"""Of the parts of ``Memory``, in their order."""
INK: Final = "#1b2733"
SOFT: Final = "#5d6b78"
RULE: Final = "#d9dfe5"
BAD: Final = "#b3361f"

_WIDTH: Final = 400
_LEFT: Final = 44
_RIGHT: Final = 12
_BAR: Final = 26
_ROW: Final = 58


@dataclass(frozen=True, slots=True)
class Stack:
    """One bar: what it is, its memory, and the limit that it must stay below."""

    label: str
    memory: Memory
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Point:
    """A step on the roofline: operations a byte, and operations a second."""

    label: str
    intensity: float
    operations_per_s: float


def memory_stack(stacks: Sequence[Stack]) -> str:
    """Bars of memory by part, each with its limit; the widest bar or limit fills the width."""
    widest = max(max(stack.memory.total, stack.limit_bytes) for stack in stacks)
    scale = (_WIDTH - 2) / widest
    height = _ROW * len(stacks) + 4
    shapes = []
    for row, stack in enumerate(stacks):
        top, x = row * _ROW + 18, 1.0
        fits = stack.memory.total <= stack.limit_bytes
        colour = INK if fits else BAD
        verdict = f"{gib(stack.memory.total)} of {gib(stack.limit_bytes)}{'' if fits else ', does not fit'}"
        shapes.append(f'<text x="1" y="{top - 5}" fill="{INK}" font-weight="600">{escape(stack.label)}</text>')
        shapes.append(f'<text x="{_WIDTH - 1}" y="{top - 5}" fill="{colour}" text-anchor="end">{verdict}</text>')
        limit = stack.limit_bytes * scale
        shapes.append(f'<rect x="1" y="{top}" width="{limit:.1f}" height="{_BAR}" fill="#f1f4f6"/>')
        for (name, size), fill in zip(stack.memory.parts, COLOURS, strict=True):
            width = size * scale
            if width > 0:
                shapes.append(
                    f'<rect x="{x:.1f}" y="{top}" width="{width:.2f}" height="{_BAR}" fill="{fill}">'
                    f"<title>{escape(name)}: {gib(size)}</title></rect>"
                )
            x += width
        shapes.append(
            f'<line x1="{limit + 1:.1f}" x2="{limit + 1:.1f}" y1="{top - 2}" y2="{top + _BAR + 2}" stroke="{BAD}" '
            'stroke-width="1.5"/>'
        )
    spoken = "; ".join(f"{stack.label}: {gib(stack.memory.total)} of {gib(stack.limit_bytes)}" for stack in stacks)
    return _svg(height, f"Memory by part. {spoken}", shapes)


def roofline(bandwidth: float, rate: float, points: Sequence[Point], name: str) -> str:
    """The roof of a machine over operations a byte, and where steps lie under it, both axes logarithmic."""
    height, bottom, top = 270, 34, 14
    lows = [min(1.0, *(point.intensity for point in points)) / 2, min(point.operations_per_s for point in points) / 4]
    ridge = rate / bandwidth
    highs = [max(ridge * 8, *(point.intensity for point in points)) * 2, rate * 3]

    def x(intensity: float) -> float:
        share = math.log(intensity / lows[0]) / math.log(highs[0] / lows[0])
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        share = math.log(value / lows[1]) / math.log(highs[1] / lows[1])
        return height - bottom - share * (height - bottom - top)

    shapes = []
    for power in range(math.ceil(math.log10(lows[0])), math.floor(math.log10(highs[0])) + 1):
        at = x(10.0**power)
        shapes.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{height - bottom}" stroke="{RULE}"/>')
        shapes.append(
            f'<text x="{at:.1f}" y="{height - bottom + 13}" fill="{SOFT}" text-anchor="middle">{10.0**power:g}</text>'
        )
    for power in range(math.ceil(math.log10(lows[1])), math.floor(math.log10(highs[1])) + 1):
        at = y(10.0**power)
        shapes.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="{RULE}"/>')
        shapes.append(f'<text x="{_LEFT - 4}" y="{at + 3:.1f}" fill="{SOFT}" text-anchor="end">{_short(power)}</text>')
    begin = max(lows[0], lows[1] / bandwidth)
    corners = [(begin, begin * bandwidth), (ridge, rate), (highs[0], rate)]
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in corners)
    shapes.append(f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.8"/>')
    for place, point in enumerate(points):
        spot = (x(point.intensity), y(point.operations_per_s))
        is_right = spot[0] > _WIDTH * 0.55
        anchor, shift, drop = ("middle", 0, 19) if is_right else ("start", 8, 12)
        shapes.append(f'<circle cx="{spot[0]:.1f}" cy="{spot[1]:.1f}" r="4.5" fill="{COLOURS[place % 5]}"/>')
        shapes.append(
            f'<text x="{spot[0] + shift:.1f}" y="{spot[1] + drop:.1f}" fill="{INK}" text-anchor="{anchor}">'
            f"{escape(point.label)}</text>"
        )
    shapes.append(
        f'<text x="{(_WIDTH + _LEFT) / 2}" y="{height - 5}" fill="{SOFT}" text-anchor="middle">operations a byte</text>'
    )
    shapes.append(f'<text x="2" y="10" fill="{SOFT}">operations/s</text>')
    spoken = "; ".join(f"{point.label}: {point.operations_per_s:.2g} operations/s" for point in points)
    return _svg(height, f"Roofline of {name}. {spoken}", shapes)


def _short(power: int) -> str:
    for floor, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if power >= floor:
            return f"{10 ** (power - floor)} {unit}"
    return f"1e{power}"


def _svg(height: int, title: str, shapes: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}" '
        f'font-family="system-ui, sans-serif" font-size="11" xmlns="http://www.w3.org/2000/svg">{"".join(shapes)}</svg>'
    )
