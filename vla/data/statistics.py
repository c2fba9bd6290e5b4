"""Feature statistics as `meta/stats.json` keeps them, exact instead of estimated.

LeRobot estimates quantiles from 5000-bin histograms per episode and averages them over episodes, which is not a
quantile of the dataset. Frames have 256 values and the other columns fit in memory, so both are exact here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Statistics = dict[str, NDArray[Any]]

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
STATISTIC_NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)


def vector_statistics(values: NDArray[Any]) -> Statistics:
    """Statistics of `values` [N, D] along the first axis, each [D]; "count" is [1].

    "min" and "max" keep the dtype of the column, as LeRobot's own files do; the others are float64.
    """
    real = values.astype(np.float64)
    statistics: Statistics = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": real.mean(axis=0),
        "std": real.std(axis=0),
        "count": np.array([len(values)], dtype=np.int64),
    }
    for name, quantile in zip(QUANTILES, np.quantile(real, list(QUANTILES.values()), axis=0), strict=True):
        statistics[name] = quantile
    return statistics


def image_histogram(frames: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each channel of `frames` [N, H, W, 3] takes each value, [3, 256]."""
    return np.stack([np.bincount(frames[..., channel].reshape(-1), minlength=256) for channel in range(3)])


def image_statistics(histogram: NDArray[np.int64], num_frames: int) -> Statistics:
    """Statistics per channel in 0..1, each [3, 1, 1], from a histogram [3, 256]; "count" is [1] and counts frames.

    A quantile is the smallest value that at least this share of the pixels does not exceed.
    """
    levels = np.arange(256) / 255.0
    pixels = histogram.sum(axis=1)
    mean = histogram @ levels / pixels
    variance = histogram @ levels**2 / pixels - mean**2
    per_channel = {
        "min": levels[(histogram > 0).argmax(axis=1)],
        "max": levels[255 - (histogram[:, ::-1] > 0).argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(variance, 0.0)),
    }
    shares = np.cumsum(histogram, axis=1) / pixels[:, None]
    for name, quantile in QUANTILES.items():
        per_channel[name] = levels[(shares >= quantile - 1e-12).argmax(axis=1)]
    statistics: Statistics = {name: value.reshape(3, 1, 1) for name, value in per_channel.items()}
    statistics["count"] = np.array([num_frames], dtype=np.int64)
    return {name: statistics[name] for name in STATISTIC_NAMES}
