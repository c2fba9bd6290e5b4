from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.data.statistics import STATISTIC_NAMES, image_histogram, image_statistics, vector_statistics


def test_vector_statistics_by_hand() -> None:
    statistics = vector_statistics(np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0]]))
    assert tuple(statistics) == STATISTIC_NAMES
    assert statistics["mean"].tolist() == [2.0, 5.0]
    assert statistics["std"] == pytest.approx([np.sqrt(2.0), 0.0])
    assert statistics["count"].tolist() == [5]
    # Linear interpolation between order statistics: the 10 % point of 0..4 lies at 0.4.
    assert statistics["q10"] == pytest.approx([0.4, 5.0])
    assert statistics["q50"].tolist() == [2.0, 5.0]
    assert statistics["q99"] == pytest.approx([3.96, 5.0])


def test_minimum_and_maximum_keep_the_dtype_of_the_column() -> None:
    flags = vector_statistics(np.array([[False], [True]]))
    assert flags["min"].tolist() == [False]
    assert flags["max"].tolist() == [True]
    assert flags["mean"].tolist() == [0.5]
    assert vector_statistics(np.array([[3], [9]]))["max"].dtype.kind == "i"


def test_image_statistics_by_hand() -> None:
    frames = np.zeros((2, 1, 2, 3), dtype=np.uint8)
    frames[..., 0] = [[[0, 255]], [[255, 255]]]  # red: one pixel of 0, three of 255
    frames[..., 1] = 51  # green: 0.2 everywhere
    statistics = image_statistics(image_histogram(frames), num_frames=2)
    assert all(statistics[name].shape == (3, 1, 1) for name in STATISTIC_NAMES if name != "count")
    assert statistics["count"].tolist() == [2]
    assert statistics["mean"][:, 0, 0] == pytest.approx([0.75, 0.2, 0.0])
    assert statistics["std"][:, 0, 0] == pytest.approx([np.sqrt(0.75 * 0.25), 0.0, 0.0], abs=1e-8)
    assert statistics["min"][:, 0, 0] == pytest.approx([0.0, 0.2, 0.0])
    assert statistics["q10"][:, 0, 0] == pytest.approx([0.0, 0.2, 0.0])
    assert statistics["q50"][:, 0, 0] == pytest.approx([1.0, 0.2, 0.0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_image_statistics_equal_those_of_the_pixels(seed: int, num_frames: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, 4, 6, 3), dtype=np.uint8)
    statistics = image_statistics(image_histogram(frames), num_frames)
    pixels = frames.reshape(-1, 3) / 255.0
    assert statistics["mean"][:, 0, 0] == pytest.approx(pixels.mean(axis=0))
    assert statistics["std"][:, 0, 0] == pytest.approx(pixels.std(axis=0))
    assert statistics["min"][:, 0, 0] == pytest.approx(pixels.min(axis=0))
    assert statistics["max"][:, 0, 0] == pytest.approx(pixels.max(axis=0))
    for name, share in (("q01", 0.01), ("q50", 0.5), ("q90", 0.9)):
        expected = np.quantile(pixels, share, axis=0, method="inverted_cdf")
        assert statistics[name][:, 0, 0] == pytest.approx(expected)
