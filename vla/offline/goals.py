"""Goals in hindsight: a log without rewards, learnt as what leads from each state to others.

What an episode came to is what it was meant to do (hindsight experience replay, arXiv 1707.01495): a goal is a later
observation of the same episode, and every step costs 1 until the next observation is the goal, where the transition
ends. Some goals are of any episode, which hardly anything leads to. Goals can be stitched (temporal data augmentation,
"Closing the Gap between TD Learning and Supervised Learning", ICLR 2024): where another episode passes near a goal,
what that one came to afterwards is a goal as well.

Observation and goal lie side by side, [state, features, state of the goal, features of the goal]. To act, a policy is
given the end of a recorded success of the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans, vq
from scipy.spatial.distance import cdist

from vla.errors import ReflexError
from vla.offline.transitions import Transitions
from vla.run.settings import Checks

FITTED_POINTS = 10_000
"""Observations that clusters are fitted to; all of them are then told to a cluster."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class GoalSettings:
    """Goals in hindsight, for logs without rewards."""

    method: Literal["none", "hindsight", "stitched"] = "none"
    """"none" learns from the rewards; "hindsight" takes later observations of the episode as goals, "stitched" also
    what other episodes that pass nearby came to."""
    each: int = 4
    """Goals of each transition."""
    steps: float = 30.0
    """Mean number of control steps to a goal, which is drawn geometrically; one beyond the episode's end is its end."""
    others: float = 0.2
    """Share of the goals that are observations of any episode."""
    stitched: float = 0.5
    """Of "stitched": share of the other goals that are replaced by what another episode came to."""
    clusters: int = 40
    """Of "stitched": clusters of observations; those in one are near each other."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError` naming the field."""
        check = Checks(self, "goals.")
        check.literals()
        check.at_least(1, "each", "clusters")
        check.at_least(1, "steps", reason="a goal is after its state")
        check.within(0, 1, "others", "stitched")


def last_rows(episodes: NDArray[np.int64]) -> Rows:
    """[N] the last row of the episode of each row, for numbers of episodes [N] whose rows are next to one another."""
    ends = np.append(np.flatnonzero(np.diff(episodes)), len(episodes) - 1)
    last: Rows = ends[np.searchsorted(ends, np.arange(len(episodes)))]
    return last


def future_rows(last: Rows, steps: float, generator: np.random.Generator) -> Rows:
    """[N] for each row itself or a later one of its episode, whose last row `last` [N] has.

    What follows the row drawn is the goal, so that it is 1 step away or more: a geometric number with the mean `steps`,
    and no more than there are.
    """
    found: Rows = np.minimum(np.arange(len(last)) + generator.geometric(1 / steps, len(last)) - 1, last)
    return found


def stitched_rows(goals: Rows, clusters: NDArray[np.int64], last: Rows, generator: np.random.Generator) -> Rows:
    """[N] in the place of goals [N]: a row drawn from the same cluster, or a later one of that row's episode.

    Args:
        goals: rows whose next observations are the goals.
        clusters: [M] the cluster of each row's next observation.
        last: [M] the last row of the episode of each row.
        generator: draws the row of the cluster, and then uniformly from it to the end of its episode.
    """
    order = np.argsort(clusters, kind="stable")
    counts = np.bincount(clusters)
    starts = np.cumsum(counts) - counts
    chosen = clusters[goals]
    near = order[starts[chosen] + generator.integers(0, counts[chosen])]
    found: Rows = generator.integers(near, last[near] + 1)
    return found


def find_clusters(points: NDArray[np.float32], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """[N] the cluster of each point [N, D] by k-means, each number at its own scale; from 0, and at most `count`."""
    deviations = points.std(axis=0)
    scaled = (points - points.mean(axis=0)) / np.where(deviations > 1e-5, deviations, 1.0)
    fitted = scaled[generator.permutation(len(scaled))[:FITTED_POINTS]]
    centres, _ = kmeans(fitted, fitted[:count])
    found: NDArray[np.int64] = vq(scaled, centres)[0].astype(np.int64)
    return found


def with_goals(
    transitions: Transitions,
    settings: GoalSettings,
    discount: float,
    ends: Mapping[str, NDArray[np.float32]],
    seed: int,
) -> Transitions:
    """Each transition `settings.each` times, with a goal beside its observation and the reward that the goal makes.

    Chunks keep their spans: one that reaches its goal at its end has cost a step less than the others. After the last
    action of a success nothing was recorded, so that such a transition has its own end as its goal and no other.

    Args:
        transitions: of one step or of chunks, each episode's in order of time; their rewards do not count.
        settings: which goals.
        discount: of rewards, a control step.
        ends: what `success_ends` gives, which the policy is told when it acts.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    rows, last, following = np.arange(len(transitions)), last_rows(transitions.episodes), transitions.next_observations
    clusters = find_clusters(following, settings.clusters, generator) if settings.method == "stitched" else None
    parts = []
    for _ in range(settings.each):
        goals = future_rows(last, settings.steps, generator)
        if clusters is not None:
            stitched = stitched_rows(goals, clusters, last, generator)
            goals = np.where(generator.random(len(rows)) < settings.stitched, stitched, goals)
        anywhere = generator.integers(0, len(rows), len(rows))
        goals = np.where(generator.random(len(rows)) < settings.others, anywhere, goals)
        goals = np.where(transitions.terminals, rows, goals)
        parts.append(_towards(transitions, following[goals], discount))
    columns: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    repeated = transitions.take(np.tile(rows, settings.each))
    return replace(repeated, goals=dict(ends), **columns)


def _towards(transitions: Transitions, goals: NDArray[np.float32], discount: float) -> dict[str, NDArray[Any]]:
    """What transitions become with goals [N, O]."""
    reached = (transitions.next_observations == goals).all(axis=1)
    costs = np.where(reached, transitions.spans - 1, transitions.spans).astype(np.float64)
    rewards = -costs if discount == 1.0 else -(1.0 - discount**costs) / (1.0 - discount)
    return {
        "observations": np.concatenate([transitions.observations, goals], axis=1),
        "next_observations": np.concatenate([transitions.next_observations, goals], axis=1),
        "rewards": rewards.astype(np.float32),
        "terminals": reached,
    }


def success_ends(transitions: Transitions, instructions: Mapping[int, str]) -> dict[str, NDArray[np.float32]]:
    """Instruction -> the last observation [O] of a success: of all of that task the one nearest to their mean.

    Each number counts at its scale in the data.

    Args:
        transitions: without goals yet.
        instructions: number of an episode -> what was asked for in it.

    Raises:
        ReflexError: no episode succeeded.
    """
    deviations = transitions.observations.std(axis=0)
    scales = np.where(deviations > 1e-5, deviations, 1.0)
    ends = np.unique(last_rows(transitions.episodes))
    ends = ends[transitions.successes[ends]]
    if not len(ends):
        raise ReflexError(
            "goals.method is set and no episode succeeded: the goal that a policy is given when it acts is the end of "
            "a success; record some, or learn from rewards"
        )
    of_task: dict[str, list[int]] = {}
    for row in ends.tolist():
        of_task.setdefault(instructions[int(transitions.episodes[row])], []).append(row)
    found = {}
    for instruction, rows in sorted(of_task.items()):
        observed = transitions.observations[rows]
        scaled = observed / scales
        nearest = int(cdist(scaled, scaled.mean(axis=0, keepdims=True)).argmin())
        found[instruction] = observed[nearest]
    return found
