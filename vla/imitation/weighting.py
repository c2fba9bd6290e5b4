"""What each moment of logged rollouts counts in fine-tuning: offline SRPO, with no simulator in the loop.

A logged rollout, failed or not, is cut into moments. How far each had come is read off the task's successes in the same
log: the progress of the moment of another success that looks most alike to the policy. Moments after which the next
chunk of actions made more progress than is usual for the task count more (advantage-weighted regression, arXiv
1910.00177, with progress increments in the place of returns), so that failures teach what was right about them.

Rollouts in which a person took over from the policy say more: what the person did is what the policy should have done.
HG-DAgger (arXiv 1810.02890) learns from that alone, Sirius (arXiv 2211.08416) from all but what led to a take-over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vla.data.advantages import Advantages
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.imitation.samples import observations_for
from vla.policies.protocol import TrainablePolicy
from vla.rewards.success_progress import task_progress

Weighting = Literal["none", "success", "progress", "advantage", "interventions", "sirius"]

LARGEST_WEIGHT = 20.0
"""Bound on a moment's weight before weights are scaled to mean 1, as advantage-weighted regression has it."""

BATCH = 256
"""Observations that the policy looks at together."""


def sample_weights(
    policy: TrainablePolicy,
    episodes: Sequence[Episode],
    weighting: Weighting,
    temperature: float = 1.0,
    steps_before: int = 30,
) -> NDArray[np.float32] | None:
    """[N] what each observation before an episode's last action counts, of mean 1; None when all count the same.

    Args:
        policy: looks at the observations under "progress"; its weights are not changed.
        episodes: in the order in which `EpisodeSamples` takes their observations.
        weighting: "success" for those of successful episodes only, the others as the module says.
        temperature: of "progress": the smaller, the more the best moments stand out.
        steps_before: of "sirius": control steps before a take-over that do not count.

    Raises:
        ReflexError: no episode succeeded; or, of "interventions" and "sirius", nobody recorded what a person did, or
            no person did anything.
    """
    if weighting in ("none", "advantage"):  # the latter are `critic_weights`
        return None
    if weighting in ("interventions", "sirius"):
        return _human_weights(episodes, weighting, steps_before)
    if not any(episode.success for episode in episodes):
        raise ReflexError(
            f"weighting={weighting} needs successful episodes, and none of {len(episodes)} is; choose another dataset, "
            "or weighting=none"
        )
    kept = [_kept(episode) for episode in episodes]
    if weighting == "success":
        return _of_mean_one(
            np.concatenate(
                [np.full(len(rows), float(episode.success)) for rows, episode in zip(kept, episodes, strict=True)]
            )
        )
    features = [_features(policy, episode, rows) for episode, rows in zip(episodes, kept, strict=True)]
    progress = task_progress(
        features, [episode.success for episode in episodes], [episode.task_id for episode in episodes]
    )
    horizon = policy.spec.chunk_horizon
    increments = [
        chunk_increments(values, episode.observation_steps[rows], episode.length, horizon)
        for values, episode, rows in zip(progress, episodes, kept, strict=True)
    ]
    return advantage_weights(increments, [episode.task_id for episode in episodes], temperature)


def critic_weights(
    advantages: Advantages, indices: Sequence[int], episodes: Sequence[Episode], temperature: float
) -> NDArray[np.float32]:
    """[N] what each observation counts by the advantage of the chunk that follows it, of mean 1 (`advantage_weights`).

    A moment of which the critics know nothing, because its chunk was cut off by the end of the recording, counts 0.

    Args:
        advantages: what `vla offline` wrote of the dataset.
        indices: place of each episode in the dataset.
        episodes: these, in the order in which `EpisodeSamples` takes their observations.
        temperature: the smaller, the more the best moments stand out.

    Raises:
        ReflexError: nothing is known of any of the episodes' moments.
    """
    found = [
        advantages.of_episode(index, episode.length)[
            episode.observation_steps[episode.observation_steps < episode.length]
        ]
        for index, episode in zip(indices, episodes, strict=True)
    ]
    values = np.concatenate(found)
    known = np.isfinite(values)
    if not known.any():
        raise ReflexError("the advantages are of none of these episodes; run vla offline on the dataset of vla sft")
    weights = np.zeros(len(values))
    weights[known] = advantage_weights(
        [part[np.isfinite(part)] for part in found], [episode.task_id for episode in episodes], temperature
    )
    return _of_mean_one(weights)


def chunk_increments(
    progress: NDArray[np.floating], steps: NDArray[np.int64], length: int, horizon: int
) -> NDArray[np.float64]:
    """Progress [D + 1] at D observed moments and the end -> what the next chunk added at each moment, [D].

    Args:
        progress: at each moment, and at the end of the episode.
        steps: [D] control step of each moment, increasing.
        length: control steps of the episode.
        horizon: control steps of a chunk; one that ends between two moments ends at the later.
    """
    ends = np.searchsorted(np.append(steps, length), np.minimum(steps + horizon, length))
    known = np.asarray(progress, dtype=np.float64)
    return known[ends] - known[:-1]


def advantage_weights(
    increments: Sequence[NDArray[np.floating]], task_ids: ArrayLike, temperature: float
) -> NDArray[np.float32]:
    """exp(A / temperature), at most `LARGEST_WEIGHT`, scaled to mean 1: what each moment counts, [sum of D].

    A is the increment less the mean of its task's, over the deviation of its task's. A task whose increments are all
    equal has weights equal to one another.

    Args:
        increments: [D] of each episode.
        task_ids: [N] of the episodes.
        temperature: above 0.
    """
    counts = [len(values) for values in increments]
    tasks = np.repeat(np.asarray(task_ids, dtype=np.int64), counts)
    values = np.concatenate([np.asarray(part, dtype=np.float64) for part in increments])
    weights = np.ones(len(values))
    for task in np.unique(tasks).tolist():
        members = tasks == task
        deviation = float(values[members].std())
        if deviation > 0:
            advantages = (values[members] - values[members].mean()) / deviation
            weights[members] = np.minimum(np.exp(np.minimum(advantages / temperature, 50.0)), LARGEST_WEIGHT)
    return _of_mean_one(weights)


def _human_weights(
    episodes: Sequence[Episode], weighting: Literal["interventions", "sirius"], steps_before: int
) -> NDArray[np.float32]:
    by_person = [episode.interventions for episode in episodes if episode.interventions is not None]
    if len(by_person) < len(episodes) or not any(steps.any() for steps in by_person):
        missing = "no person acted in it" if len(by_person) == len(episodes) else "it has no column intervention"
        raise ReflexError(
            f"weighting={weighting} learns from what a person did, and the dataset does not say: {missing}. Record one "
            "with vla robot teleoperate, or take over during vla deploy; or choose another weighting"
        )
    if weighting == "sirius":
        weights = sirius_weights(by_person, steps_before)
    else:
        weights = [steps.astype(np.float64) for steps in by_person]
    kept = [
        of_steps[episode.observation_steps[_kept(episode)]] for of_steps, episode in zip(weights, episodes, strict=True)
    ]
    return _of_mean_one(np.concatenate(kept))


def sirius_weights(by_person: Sequence[NDArray[np.bool_]], steps_before: int) -> list[NDArray[np.float64]]:
    """What each control step of each episode counts by Sirius (arXiv 2211.08416, section IV): P*(class) / P(class).

    Classes: a demonstration, in which a person drove from the beginning; an intervention; the `steps_before` control
    steps before one, which led to it; and what else the policy did. In a demonstration, steps in which the person did
    not have the arm count nothing. Demonstrations keep their share P*, interventions
    have half of everything (or what demonstrations leave of it), what led to them nothing, and the policy the rest. A
    class that does not occur leaves its share to the interventions.

    Args:
        by_person: [T] of each episode, whether a person made the action.
        steps_before: control steps that lead to a take-over.
    """
    demonstration, intervention, before, policy = range(4)
    classes = []
    for steps in by_person:
        by_person_alone = bool(steps[0])
        found = np.where(steps, demonstration, before) if by_person_alone else np.where(steps, intervention, policy)
        for start in np.flatnonzero(steps & ~np.append(True, steps[:-1])):
            led = slice(max(0, start - steps_before), start)
            found[led][found[led] == policy] = before
        classes.append(found)
    shares = np.bincount(np.concatenate(classes), minlength=4) / sum(map(len, classes))
    left = 1.0 - shares[demonstration]
    wanted = np.zeros(4)
    wanted[demonstration] = shares[demonstration]
    wanted[intervention] = min(0.5, left) if shares[policy] else left
    wanted[policy] = left - wanted[intervention]
    weights = np.divide(wanted, shares, out=np.zeros(4), where=shares > 0)
    return [weights[found] for found in classes]


def _kept(episode: Episode) -> NDArray[np.int64]:
    """Which of its observations lie before its last action."""
    return np.flatnonzero(episode.observation_steps < episode.length)


def _of_mean_one(weights: NDArray[np.float64]) -> NDArray[np.float32]:
    scaled: NDArray[np.float64] = weights / weights.mean()
    return scaled.astype(np.float32)


def _features(policy: TrainablePolicy, episode: Episode, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """[D, F] what the policy makes of an episode's observations before it acts."""
    parts = []
    for part in np.array_split(rows, -(-len(rows) // BATCH)):
        observations = observations_for(policy, episode, part)
        with torch.inference_mode():
            parts.append(policy.features_from_inputs(policy.prepare(observations)))
    return np.concatenate(parts)
