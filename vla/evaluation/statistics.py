"""Statistics of success rates: intervals for one policy, paired comparisons of two.  Pure functions.

SciPy's statistics are imported where they are used: they take longer to import than to use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["PairedDifference", "mcnemar_exact", "paired_bootstrap", "wilson_interval"]


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a binomial proportion (Wilson 1927, without continuity correction).

    With p = successes / trials and z the normal quantile of ``confidence``::

        centre = (p + z^2 / 2n) / (1 + z^2 / n)
        half   = z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n)

    Unlike the normal approximation it stays inside [0, 1] and has a sensible width at 0 and 100 %.

    Returns:
        (low, high); (0, 1) when there were no trials.

    Raises:
        ValueError: counts are negative, successes exceed trials, or confidence is outside (0, 1).
    """
    if trials < 0 or not 0 <= successes <= trials:
        raise ValueError(f"need 0 <= successes <= trials, got {successes} of {trials}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if trials == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    low, high = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


@dataclass(frozen=True)
class PairedDifference:
    """Success rate of B minus success rate of A over the same episodes."""

    difference: float
    """Mean of B minus mean of A."""
    low: float
    """Lower end of the bootstrap interval."""
    high: float
    """Upper end of the bootstrap interval."""
    p_value: float
    """Two-sided exact McNemar p-value."""
    only_a: int
    """Episodes that A solved and B did not."""
    only_b: int
    """Episodes that B solved and A did not."""
    pairs: int
    """Episodes compared."""


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar test (McNemar 1947): are the discordant pairs split evenly?

    With n = only_a + only_b and k = min(only_a, only_b): p = min(1, 2 P(X <= k)), X ~ Binomial(n, 1/2).

    Raises:
        ValueError: a count is negative.
    """
    if only_a < 0 or only_b < 0:
        raise ValueError(f"counts must not be negative, got {only_a} and {only_b}")
    from scipy.stats import binomtest

    discordant = only_a + only_b
    return float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0


def paired_bootstrap(
    a: Sequence[bool] | Sequence[int],
    b: Sequence[bool] | Sequence[int],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two policies evaluated on the same episodes (percentile bootstrap over pairs, Efron 1979).

    Resampling pairs keeps the correlation that a shared initial state causes, which two separate intervals ignore.

    Args:
        a: [N] successes of policy A.
        b: [N] successes of policy B, on the same task and initial state at each index.
        confidence: coverage of the interval.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: the sequences differ in length or are empty, or hold something other than 0 and 1.
    """
    first, second = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise ValueError(f"need two equally long, non-empty sequences, got shapes {first.shape} and {second.shape}")
    if not np.isin(np.concatenate([first, second]), (0, 1)).all():
        raise ValueError("successes must be 0 or 1")
    pairs = first.size
    only_a = int(((first == 1) & (second == 0)).sum())
    only_b = int(((first == 0) & (second == 1)).sum())
    # A resample of pairs is fully described by how often each kind of pair was drawn.
    counts = np.random.default_rng(seed).multinomial(
        pairs, [only_b / pairs, only_a / pairs, (pairs - only_a - only_b) / pairs], size=resamples
    )
    differences = (counts[:, 0] - counts[:, 1]) / pairs
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return PairedDifference(
        difference=(only_b - only_a) / pairs,
        low=float(low),
        high=float(high),
        p_value=mcnemar_exact(only_a, only_b),
        only_a=only_a,
        only_b=only_b,
        pairs=pairs,
    )
