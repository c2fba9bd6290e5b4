from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

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


TABLES = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(-1e6, 1e6, width=32),
)


@settings(max_examples=50, deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_vector_statistics_of_any_table(values: np.ndarray, order: Random) -> None:
    statistics = vector_statistics(values)
    ladder = [statistics[name] for name in ("min", "q01", "q10", "q50", "q90", "q99", "max")]
    assert all((low <= high).all() for low, high in pairwise(ladder))
    assert (statistics["min"] == values.min(axis=0)).all() and (statistics["max"] == values.max(axis=0)).all()
    size = 1 + float(np.abs(values).max())
    for name, expected in (
        ("mean", values.mean(axis=0, dtype=np.float64)),
        ("std", values.std(axis=0, dtype=np.float64)),
        ("q10", np.percentile(values.astype(np.float64), 10, axis=0)),
        ("q50", np.median(values.astype(np.float64), axis=0)),
        ("q99", np.percentile(values.astype(np.float64), 99, axis=0)),
    ):
        assert statistics[name] == pytest.approx(expected, abs=1e-9 * size), name
    assert statistics["count"].tolist() == [len(values)]
    rows = list(range(len(values)))
    order.shuffle(rows)
    for name, value in vector_statistics(values[rows]).items():
        assert value == pytest.approx(statistics[name], abs=1e-9 * size), name


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3))
def test_histograms_of_episodes_add_up_to_that_of_the_dataset(seed: int, first: int, second: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (first + second, 4, 6, 3), dtype=np.uint8)
    parts = image_histogram(frames[:first]) + image_histogram(frames[first:])
    assert (parts == image_histogram(frames)).all()
    assert parts.sum() == frames.size
    assert (parts[1, 128:].sum(), parts[2, 128:].sum()) == ((frames[..., 1] > 127).sum(), (frames[..., 2] > 127).sum())
