"""Which method to learn with from a data set, and why.

The directions are published, the thresholds are ours. Imitation needs episodes near the best (a high TQ), methods that
estimate values need varied ones, and constrained methods such as IQL live with either (Schweighofer et al. 2021,
arXiv 2111.04714). Sampling good trajectories more often helps where few are good and many are bad, which the
positive-sided variance of returns shows; where most are alike it does nothing or harm (Hong et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Method = Literal["BC", "IQL", "weighted IQL"]

NEAR_THE_BEST = 0.75
"""TQ from which there is little to gain over imitating what was done."""

MOSTLY_BAD = 0.5
"""TQ below which most of what was done is far from the best."""

SPREAD = 0.01
"""Positive-sided variance, of returns from 0 (worst) to 1 (best), from which good episodes stand out."""

REPETITIVE = 0.3
"""Share of different state-action pairs below which a data set repeats itself."""

FEWEST_EPISODES, FEWEST_SUCCESSES = 20, 5


@dataclass(frozen=True)
class Measured:
    """What a recommendation follows from."""

    episodes: int
    successes: int
    says_success: bool
    """The data set records which episodes succeeded."""
    best_return: float
    worst_return: float
    trajectory_quality: float | None
    """None where all returns are equal."""
    normalised_positive_variance: float
    """Of returns from 0 (worst) to 1 (best)."""
    different_pairs: float
    """Share of state-action pairs that are not repetitions."""
    broken: int


@dataclass(frozen=True)
class Recommendation:
    """What to do."""

    method: Method
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]


def recommend(data: Measured) -> Recommendation:
    """The method for a data set, the reasons, and what stands in the way."""
    method, reason = _method(data)
    return Recommendation(method, (reason,), tuple(_warnings(data)))


def _method(data: Measured) -> tuple[Method, str]:
    quality = data.trajectory_quality
    if quality is None and data.successes == data.episodes:
        return "BC", "every episode succeeds with the same return: there is nothing to tell better from worse"
    if quality is None:
        return (
            "IQL",
            "every episode has the same return, so nothing says which is better: give the data set a learned reward "
            "(vla label, vla reward), then make this report again",
        )
    said = f"TQ {quality:.2f}"
    if quality >= NEAR_THE_BEST:
        return "BC", f"{said}: most episodes are near the best, so that imitating them is enough"
    spread = data.normalised_positive_variance
    if quality < MOSTLY_BAD and spread >= SPREAD:
        return (
            "weighted IQL",
            f"{said}: most episodes are far from the best, and the positive-sided variance of {spread:.3f} says that "
            "some stand out: sample those more often",
        )
    if quality < MOSTLY_BAD:
        return (
            "IQL",
            f"{said}: most episodes are far from the best, and the positive-sided variance of {spread:.3f} says that "
            "none stand out enough to be sampled more often",
        )
    return (
        "IQL",
        f"{said}: good and bad episodes are mixed. Imitation would learn both; the good ones are so many that sampling "
        "them more often gains little",
    )


def _warnings(data: Measured) -> list[str]:
    found = []
    if not data.says_success:
        found.append("the data set does not say which episodes succeeded: all were taken for successes")
    if data.episodes < FEWEST_EPISODES:
        found.append(f"few episodes ({data.episodes}): every number here is uncertain")
    if data.successes < FEWEST_SUCCESSES:
        found.append(f"few successes ({data.successes}): hardly anything shows what a method should do")
    if data.different_pairs < REPETITIVE:
        found.append(
            f"only {data.different_pairs:.0%} of the state-action pairs are different: values of other actions would "
            "be guesses, and methods that ask for them (TD3+BC, AWAC) are at risk"
        )
    if data.broken:
        found.append(f"broken episodes: {data.broken}; leave them out, or record them again")
    return found
