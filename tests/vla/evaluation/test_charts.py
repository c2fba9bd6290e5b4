"""The charts of a report: points where they belong, the same each time, and nothing that would leave its box."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context

import vla
from vla.evaluation.charts import CurvePoint, histogram, learning_curve, number, percent, sparkline

LINK = "{http://www.w3.org/1999/xlink}href"


def drawn(chart: str) -> ElementTree.Element:
    """A chart as a tree; an HTML page declares the prefix that a document of its own must."""
    return ElementTree.fromstring(chart.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1))


def test_curve_places_points_where_they_belong() -> None:
    points = [CurvePoint(0, 0.0, 0.0, 0.3, "a"), CurvePoint(10, 1.0, 0.7, 1.0, "b < c")]
    root = drawn(learning_curve(points, width=860, height=300))
    # The last elements used are the dots; the first is the band.
    band, *dots = root.iter("use")
    assert [(float(dot.attrib["x"]), float(dot.attrib["y"])) for dot in dots] == [(46.0, 260.0), (802.0, 14.0)]
    assert [title.text for title in root.iter("title")] == ["a", "b < c"]
    (outline,) = (path for path in root.iter("path") if f"#{path.get('id')}" == band.get(LINK))
    numbers = [float(word) for word in re.findall(r"-?[0-9.]+", outline.attrib["d"])]
    heights = {
        (across, round(float(band.attrib["y"]) + down, 1))
        for across, down in zip(numbers[::2], numbers[1::2], strict=True)
    }
    # From 0 to 30 % on the left, from 70 to 100 % on the right; 246 pixels are 100 %.
    assert heights == {(46.0, 260.0), (46.0, 186.2), (802.0, 87.8), (802.0, 14.0)}
    assert "100 %" in [text.text for text in root.iter("text")][-1:], "the last rate stands at the curve's end"


@given(st.integers(0, 10**6), st.integers(1, 10**6))
@settings(max_examples=20, deadline=None)
def test_ticks_are_round_and_inside(low: int, span: int) -> None:
    points = [CurvePoint(step, 0.5, 0.4, 0.6, "") for step in (low, low + span)]
    texts = [str(text.text) for text in drawn(learning_curve(points)).iter("text")]
    ticks = [int(text) for text in texts[: texts.index("iteration")]]
    assert 1 <= len(ticks) <= 7
    assert low <= ticks[0] <= ticks[-1] <= low + span
    steps = np.diff(ticks)
    assert len(set(steps)) <= 1
    assert all(str(step).rstrip("0") in ("1", "2", "5") for step in steps)
    assert texts[texts.index("iteration") + 1 :] == ["0 %", "25 %", "50 %", "75 %", "100 %", "50 %"]


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=20))
@settings(max_examples=20, deadline=None)
def test_sparklines_stay_inside_their_box(values: list[float]) -> None:
    root = drawn(sparkline(list(range(len(values))), values))
    (dot,) = root.iter("use")
    assert 0 <= float(dot.attrib["x"]) <= 250
    assert 0 <= float(dot.attrib["y"]) <= 84


def test_charts_are_the_same_each_time_and_fit_into_any_page() -> None:
    points = [CurvePoint(0, 0.2, 0.1, 0.3, "a"), CurvePoint(10, 1.0, 0.7, 1.0, "b")]
    charts = [learning_curve(points), sparkline([1, 2], [3.0, 4.0])]
    with rc_context({"svg.fonttype": "path", "lines.linewidth": 9, "axes.xmargin": 0.4, "axes.grid": True}):  # a user's
        assert [learning_curve(points), sparkline([1, 2], [3.0, 4.0])] == charts
    for text in charts:
        assert "<style" not in text  # it would hold for the whole page
        assert "#1f6feb" not in text  # colours are the style sheet's, so that they fit a dark page too
        assert "var(--accent)" in text
        places = [element.attrib["id"] for element in drawn(text).iter() if "id" in element.attrib]
        assert len(places) == len(set(places))
        assert all(re.fullmatch("m[0-9a-f]+", place) for place in places)  # named by content, unique in the page


def test_matplotlib_is_imported_by_what_draws_only() -> None:
    """At the top of a module it would slow down every command."""
    packages = Path(vla.__file__).parents[1]
    modules = [
        path for name in ("sim", "vla", "world_models", "real_robot") for path in packages.glob(f"{name}/**/*.py")
    ]
    assert packages / "vla" / "evaluation" / "charts.py" in modules
    eager = [path for path in modules if re.search(r"^(import|from) matplotlib", path.read_text("utf-8"), re.MULTILINE)]
    assert eager == []


def test_numbers_read_well() -> None:
    assert [percent(value) for value in (0, 0.5, 0.8754, 1)] == ["0 %", "50 %", "87.5 %", "100 %"]
    assert [number(value) for value in (11520, 0.00149412, 6, -2.5)] == ["11,520", "0.001494", "6", "-2.5"]


def test_a_histogram_has_a_bar_for_each_bin_as_high_as_its_count() -> None:
    root = drawn(histogram([1, 0, 4], width=304, height=48))
    bars = [str(path.get("d")) for path in root.iter("path") if "z" in str(path.get("d"))]
    _, *edges = [[float(word) for word in re.findall(r"-?[0-9.]+", bar)] for bar in bars]  # the first is the page
    heights = [max(numbers[1::2]) - min(numbers[1::2]) for numbers in edges]
    np.testing.assert_allclose(heights, [10.0, 0.0, 40.0], atol=0.01)
    assert [round(min(numbers[::2])) for numbers in edges] == [7, 107, 207], "100 pixels a bin, of which a bar has 90"
    assert root.get("aria-label") == "3 bins, 5 values"
    assert drawn(histogram([0, 0])) is not None, "nothing to show is no error"
