"""What tells a useful latent space from a collapsed one, as pure functions of latents.

The prediction loss alone says nothing: a constant latent is predicted perfectly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def latent_deviation(latents: NDArray[np.floating]) -> float:
    """Standard deviation of latents [N, D] over samples, averaged over dimensions (0: collapsed)."""
    return float(np.asarray(latents, dtype=np.float64).std(axis=0).mean())


def effective_rank(latents: NDArray[np.floating]) -> float:
    """Number of directions that latents [N, D] use: exp of the entropy of their normalised singular values.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007, on centred latents. Between 1 (a line) and min(N - 1, D);
    0 when all latents are equal.
    """
    centred = np.asarray(latents, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    scale = np.abs(latents).max() if latents.size else 0.0
    if values.sum() <= 1e-7 * max(1.0, float(scale)) * len(latents):
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def ridge_r2(
    train_inputs: NDArray[np.floating],
    train_targets: NDArray[np.floating],
    test_inputs: NDArray[np.floating],
    test_targets: NDArray[np.floating],
    penalty: float = 1e-3,
) -> FloatArray:
    """Coefficient of determination [K] of a ridge regression from inputs [N, D] to targets [N, K], on test samples.

    Inputs and targets are standardised with training statistics; `penalty` is per training sample. 1 is a perfect
    linear read-out, 0 no better than the mean of the test targets. NaN for a target that does not vary in the test set.
    """
    x, y = np.asarray(train_inputs, np.float64), np.asarray(train_targets, np.float64)
    x_mean, x_scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-8)
    y_mean = y.mean(axis=0)
    x = (x - x_mean) / x_scale
    weights = np.linalg.solve(x.T @ x + penalty * len(x) * np.eye(x.shape[1]), x.T @ (y - y_mean))
    predicted = (np.asarray(test_inputs, np.float64) - x_mean) / x_scale @ weights + y_mean
    actual = np.asarray(test_targets, np.float64)
    residual = np.square(actual - predicted).sum(axis=0)
    total = np.square(actual - actual.mean(axis=0)).sum(axis=0)
    varies = actual.std(axis=0) > 1e-8
    return np.where(varies, 1.0 - residual / np.where(varies, total, 1.0), np.nan)
