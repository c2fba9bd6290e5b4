"""The report's line charts: drawn by matplotlib, as SVG that stands inside the page and takes its colours and font.

Matplotlib is imported by what draws, so that commands that draw nothing do not wait for it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CurvePoint", "histogram", "learning_curve", "number", "percent", "sparkline"]

COLOURS = {"#1f6feb": "var(--accent)", "#5c626d": "var(--soft)", "#e4e5e2": "var(--rule)", "#ffffff": "var(--card)"}
"""What matplotlib draws with, and the colour of the page's style sheet (light or dark) that takes its place."""

ACCENT, SOFT, RULE, CARD = COLOURS

XLINK = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation on the learning curve."""

    step: int
    rate: float
    low: float
    high: float
    note: str
    """Shown when the pointer rests on the point."""


@contextmanager
def _own_style() -> Iterator[None]:
    """Draw the same from the same numbers, whatever a user's matplotlibrc says."""
    from matplotlib import rc_context, style

    with style.context("default"), rc_context({"svg.fonttype": "none", "svg.hashsalt": "reflex"}):
        yield


@_own_style()
def learning_curve(points: Sequence[CurvePoint], width: int = 860, height: int = 300) -> str:
    """Success over iterations, with its interval as a band."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, axes = _axes(width, height, left=46, right=58, top=14, bottom=40)
    axes.set(ylim=(0, 1), yticks=(0, 0.25, 0.5, 0.75, 1))
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: percent(rate)))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.tick_params(length=0, pad=8, labelsize=12, labelcolor=SOFT)
    axes.set_xlabel("iteration", color=SOFT, fontsize=12)
    axes.grid(axis="y", color=RULE, clip_on=False)
    axes.set_axisbelow(True)
    steps, rates = [point.step for point in points], [point.rate for point in points]
    low, high = [point.low for point in points], [point.high for point in points]
    axes.fill_between(steps, low, high, color=ACCENT, alpha=0.15, linewidth=0, clip_on=False)
    axes.plot(steps, rates, color=ACCENT, linewidth=2.4, clip_on=False)
    for index, point in enumerate(points):
        (dot,) = axes.plot(
            point.step, point.rate, "o", color=ACCENT, markersize=10, markeredgecolor=CARD, clip_on=False
        )
        dot.set(gid=f"point-{index}", markeredgewidth=2)
    axes.annotate(
        percent(rates[-1]),
        (steps[-1], rates[-1]),
        xytext=(10, 0),
        textcoords="offset points",
        verticalalignment="center",
        annotation_clip=False,
        color=ACCENT,
        size=15,
        weight="bold",
    )
    notes = {f"point-{index}": point.note for index, point in enumerate(points)}
    return _inline(figure, "Success rate on held-out initial states over training iterations", notes)


@_own_style()
def sparkline(steps: Sequence[int], values: Sequence[float], width: int = 250, height: int = 84) -> str:
    """A small line chart without axes; its last value is a dot."""
    figure, axes = _axes(width, height, left=2, right=8, top=8, bottom=8)
    axes.set(xticks=(), yticks=())
    axes.margins(x=0, y=0.08)
    axes.plot(steps, values, color=ACCENT, linewidth=1.8, clip_on=False)
    axes.plot(steps[-1], values[-1], "o", color=ACCENT, markersize=6, clip_on=False)
    return _inline(figure, f"{len(values)} values, last {number(values[-1])}", {})


@_own_style()
def histogram(counts: Sequence[float], width: int = 250, height: int = 84) -> str:
    """Bars side by side without axes, for values whose least and greatest are written beneath."""
    figure, axes = _axes(width, height, left=2, right=2, top=4, bottom=4)
    axes.set(xticks=(), yticks=(), xlim=(-0.5, len(counts) - 0.5), ylim=(0, max([*counts, 1])))
    axes.bar(range(len(counts)), counts, width=0.9, color=ACCENT)
    axes.axhline(0, color=RULE, linewidth=1.5)
    return _inline(figure, f"{len(counts)} bins, {number(sum(counts))} values", {})


def number(value: float) -> str:
    """Four significant digits, thousands separated: 11520 -> "11,520", 0.00149412 -> "0.001494"."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def percent(rate: float) -> str:
    """ "87.5 %", without a needless ".0"."""
    return f"{100 * rate:.1f}".removesuffix(".0") + " %"


def _axes(width: int, height: int, left: int, right: int, top: int, bottom: int) -> tuple[Figure, Axes]:
    """Bare axes with margins in pixels; at 72 dots an inch a unit of the SVG is a pixel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    inner = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(inner, frame_on=False)
    return figure, axes


def _inline(figure: Figure, label: str, notes: dict[str, str]) -> str:
    """A figure as an element of an HTML page; `notes` are shown when the pointer rests on the artist of that gid."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        parent.tag = parent.tag.rpartition("}")[2]  # an HTML page declares no namespaces
        for style in [child for child in parent if child.tag.endswith("}style")]:
            parent.remove(style)  # it would hold for the whole page
        if XLINK in parent.attrib:
            parent.set("xlink:href", parent.attrib.pop(XLINK))
        elif parent.tag == "g":  # numbered from one in every figure, so not unique in the page
            note = notes.get(parent.attrib.pop("id", ""))
            if note is not None:
                title = ElementTree.Element("title")
                title.text = note
                parent.insert(0, title)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    text = ElementTree.tostring(root, encoding="unicode")
    for drawn, shown in COLOURS.items():
        text = text.replace(drawn, shown)
    return text
