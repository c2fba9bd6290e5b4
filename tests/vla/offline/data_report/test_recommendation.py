"""What is recommended follows from the numbers, in the published directions."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from vla.offline.data_report.measures import trajectory_quality
from vla.offline.data_report.recommendation import Measured, recommend
from vla.offline.episode_weights import positive_sided_variance

USUAL = Measured(
    episodes=100,
    successes=60,
    says_success=True,
    best_return=1.0,
    worst_return=0.0,
    trajectory_quality=0.6,
    normalised_positive_variance=0.1,
    different_pairs=0.8,
    broken=0,
)


def of_returns(*returns: float) -> Measured:
    """A data set whose episodes have these returns, between 0 and 1."""
    array = np.array(returns)
    return replace(
        USUAL,
        episodes=len(array),
        successes=int(array.sum()),
        trajectory_quality=trajectory_quality(array, 0.0, 1.0),
        normalised_positive_variance=positive_sided_variance(array),
    )


@pytest.mark.parametrize(
    ("data", "method", "reason"),
    [
        (of_returns(*[1.0] * 9, 0.0), "BC", "TQ 0.90: most episodes are near the best"),
        (of_returns(*[1.0] * 6, *[0.0] * 4), "IQL", "TQ 0.60: good and bad episodes are mixed"),
        (of_returns(*[1.0] * 5, *[0.0] * 95), "weighted IQL", "TQ 0.05.*variance of 0.045 says that some stand out"),
        (of_returns(*[0.2] * 50, *[0.3] * 50), "IQL", "TQ 0.25.*variance of 0.001 says that none stand out"),
        (replace(USUAL, trajectory_quality=None, successes=100), "BC", "every episode succeeds with the same return"),
        (replace(USUAL, trajectory_quality=None, successes=0), "IQL", "give the data set a learned reward"),
    ],
)
def test_the_method_follows_from_quality_and_spread(data: Measured, method: str, reason: str) -> None:
    found = recommend(data)
    assert found.method == method
    assert len(found.reasons) == 1
    assert re.search(reason, found.reasons[0])


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"says_success": False}, "does not say which episodes succeeded"),
        ({"episodes": 19}, "few episodes (19)"),
        ({"successes": 4}, "few successes (4)"),
        ({"different_pairs": 0.29}, "only 29% of the state-action pairs are different"),
        ({"broken": 2}, "broken episodes: 2; leave them out"),
    ],
)
def test_what_stands_in_the_way_is_said(change: dict[str, object], warning: str) -> None:
    assert recommend(USUAL).warnings == ()
    (found,) = recommend(replace(USUAL, **change)).warnings  # type: ignore[arg-type]
    assert warning in found
