"""The report's charts as inline SVG.  Pure functions from numbers to text; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = [
    "CurvePoint",
    "dumbbell",
    "interval_bar",
    "learning_curve",
    "nice_ticks",
    "number",
    "percent",
    "share_bar",
    "sparkline",
]


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation on the learning curve."""

    step: int
    rate: float
    low: float
    high: float
    note: str
    """Shown when the pointer rests on the point."""


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten apart) that lie in [low, high]."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def learning_curve(points: Sequence[CurvePoint], width: int = 860, height: int = 300) -> str:
    """Success over iterations with its interval as a band; a single point is drawn with whiskers."""
    left, right, top, bottom = 46, 58, 14, 40
    steps = [point.step for point in points]
    low, high = min(steps), max(steps)

    def x(step: float) -> float:
        share = 0.5 if high == low else (step - low) / (high - low)
        return left + share * (width - left - right)

    def y(rate: float) -> float:
        return top + (1 - rate) * (height - top - bottom)

    parts: list[str] = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{percent(tick)}</text>'
        )
    for tick in [value for value in nice_ticks(low, high, 6) if value == int(value)]:
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{height - 20}" text-anchor="middle">{tick:g}</text>')
    centre = (left + width - right) / 2
    parts.append(f'<text class="axis" x="{centre:.1f}" y="{height - 3}" text-anchor="middle">iteration</text>')
    if len(points) > 1:
        outline = [(x(p.step), y(p.high)) for p in points] + [(x(p.step), y(p.low)) for p in reversed(points)]
        parts.append(f'<polygon class="band" points="{_path(outline)}"/>')
        parts.append(f'<polyline class="line" points="{_path([(x(p.step), y(p.rate)) for p in points])}"/>')
    for point in points:
        across, title = x(point.step), f"<title>{escape(point.note)}</title>"
        if len(points) == 1:
            span = f'y1="{y(point.low):.1f}" y2="{y(point.high):.1f}"'
            parts.append(f'<line class="whisker" x1="{across:.1f}" x2="{across:.1f}" {span}/>')
        parts.append(f'<circle class="dot" cx="{across:.1f}" cy="{y(point.rate):.1f}" r="4.5">{title}</circle>')
    end = points[-1]
    parts.append(f'<text class="end" x="{x(end.step) + 10:.1f}" y="{y(end.rate) + 5:.1f}">{percent(end.rate)}</text>')
    return _svg(width, height, parts, "Success rate on held-out initial states over training iterations")


def interval_bar(rate: float, low: float, high: float, accent: bool, width: int = 260, height: int = 26) -> str:
    """One success rate as a dot on a 0-100 % track, its interval as a thick line."""
    middle, pad = height / 2, 6.0

    def x(value: float) -> float:
        return pad + value * (width - 2 * pad)

    kind = "accent" if accent else "muted"
    parts = [
        f'<line class="track" x1="{x(0):.1f}" x2="{x(1):.1f}" y1="{middle}" y2="{middle}"/>',
        f'<line class="interval {kind}" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{middle}" y2="{middle}"/>',
        f'<circle class="mark {kind}" cx="{x(rate):.1f}" cy="{middle}" r="6"/>',
    ]
    return _svg(width, height, parts, f"{percent(rate)}, interval {percent(low)} to {percent(high)}")


def dumbbell(before: float, after: float, width: int = 200, height: int = 20) -> str:
    """First and last success rate of a task on one 0-100 % track."""
    middle, pad = height / 2, 6.0

    def x(value: float) -> float:
        return pad + value * (width - 2 * pad)

    parts = [
        f'<line class="track" x1="{x(0):.1f}" x2="{x(1):.1f}" y1="{middle}" y2="{middle}"/>',
        f'<line class="change" x1="{x(before):.1f}" x2="{x(after):.1f}" y1="{middle}" y2="{middle}"/>',
        f'<circle class="mark muted" cx="{x(before):.1f}" cy="{middle}" r="4.5"/>',
        f'<circle class="mark accent" cx="{x(after):.1f}" cy="{middle}" r="5"/>',
    ]
    return _svg(width, height, parts, f"from {percent(before)} to {percent(after)}")


def share_bar(share: float, width: int = 200, height: int = 20) -> str:
    """A share of a whole as a bar."""
    middle, pad = height / 2, 6.0
    end = pad + share * (width - 2 * pad)
    parts = [
        f'<line class="track" x1="{pad:.1f}" x2="{width - pad:.1f}" y1="{middle}" y2="{middle}"/>',
        f'<line class="interval accent" x1="{pad:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}"/>',
    ]
    return _svg(width, height, parts, percent(share))


def sparkline(steps: Sequence[int], values: Sequence[float], width: int = 250, height: int = 84) -> str:
    """A small line chart with its smallest and largest value on the axis."""
    left, right, top, bottom = 2, 8, 8, 8
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or max(abs(high), 1e-9) * 0.5
    low, high = low - margin, high + margin

    def x(step: float) -> float:
        share = 0.5 if steps[-1] == steps[0] else (step - steps[0]) / (steps[-1] - steps[0])
        return left + share * (width - left - right)

    def y(value: float) -> float:
        return top + (1 - (value - low) / (high - low)) * (height - top - bottom)

    points = [(x(step), y(value)) for step, value in zip(steps, values, strict=True)]
    parts = [f'<line class="grid" x1="0" x2="{width}" y1="{height - 1}" y2="{height - 1}"/>']
    if len(points) > 1:
        parts.append(f'<polyline class="line thin" points="{_path(points)}"/>')
    parts.append(f'<circle class="dot small" cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="3.2"/>')
    return _svg(width, height, parts, f"{len(values)} values, last {number(values[-1])}")


def number(value: float) -> str:
    """Four significant digits, thousands separated: 11520 -> "11,520", 0.00149412 -> "0.001494"."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def percent(rate: float) -> str:
    """ "87.5 %", without a needless ".0"."""
    return f"{100 * rate:.1f}".removesuffix(".0") + " %"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label, quote=True)}">{body}</svg>'
