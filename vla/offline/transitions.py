"""Transitions: what offline RL learns from, whole data sets as arrays.

An episode ends in one of two ways. A terminal ends it for good: no value comes after it. A truncation, by a time limit
or because a recording stopped, does not: the value of where it stopped counts, so that a truncated step is kept only
where the observation after it is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Embodiment
from vla.errors import ReflexError
from vla.policies.gaussian.vision import FrozenVision

RewardScale = Literal["none", "returns", "nonpositive", "values"]

Ends = Literal["success", "absorbing"]

LEAST_RETURN_RANGE = 1e-6
"""Returns or rewards that differ by less are taken for the same."""


@dataclass(frozen=True)
class Transitions:
    """N steps of several episodes, each episode's in order of time and next to one another."""

    observations: NDArray[np.float32]
    """[N, O] states [N, S], beside them frozen features of what was seen, [N, F], where there is `vision`, and the same
    numbers of the goal where there are `goals`."""
    actions: NDArray[np.float32]
    """[N, H * A] in the robot's units: the next H actions, flattened."""
    rewards: NDArray[np.float32]
    """[N] what the actions earned until the next observation, already discounted where that is several steps."""
    next_observations: NDArray[np.float32]
    """[N, O] after the actions; anything finite where terminal."""
    terminals: NDArray[np.bool_]
    """[N] whether nothing can be earned afterwards."""
    episodes: NDArray[np.int64]
    """[N] number of the episode."""
    frames: NDArray[np.int64]
    """[N] step within the episode, from 0."""
    successes: NDArray[np.bool_]
    """[N] whether the transition's episode succeeded; False where nobody says."""
    embodiment: Embodiment
    """The robot, with the camera that `vision` looks through and no other."""
    spans: NDArray[np.int64]
    """[N] control steps until the next observation: 1, or up to H for chunks."""
    chunk_horizon: int = 1
    """H: actions in a chunk."""
    vision: FrozenVision | None = None
    """What made the features; None where observations are states."""
    goals: Mapping[str, NDArray[np.float32]] | None = None
    """Instruction -> the observation that a policy shall reach when it acts; None where rewards say what to do."""

    def __post_init__(self) -> None:
        """Check shapes and numbers. Raises `ReflexError` naming what is wrong."""
        count = len(self.observations)
        if count == 0:
            raise ReflexError("there is no transition to learn from; check the dataset and the chosen tasks")
        for name, values in self.columns().items():
            if len(values) != count:
                raise ReflexError(f"{len(values)} {name} for {count} observations")
            if values.dtype == np.float32 and not np.isfinite(values).all():
                row = int(np.flatnonzero(~np.isfinite(values.reshape(count, -1)).all(axis=1))[0])
                raise ReflexError(
                    f"{name.replace('_', ' ')} of transition {row} (episode {self.episodes[row]}) hold NaN or "
                    "infinity; record that episode again, or leave it out"
                )
        observed = self.embodiment.state.size + (0 if self.vision is None else self.vision.size)
        observed *= 1 if self.goals is None else 2
        sizes = observed, self.chunk_horizon * self.embodiment.action.size
        found = self.observations.shape[1], self.actions.shape[1]
        if sizes != found or self.next_observations.shape != self.observations.shape:
            raise ReflexError(f"observations and actions of {found} numbers for a robot that has {sizes}")

    def __len__(self) -> int:
        return len(self.observations)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays [N, ...] by name: all that differs from step to step."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: values for name, values in found.items() if isinstance(values, np.ndarray)}

    def take(self, rows: NDArray[Any]) -> Self:
        """The transitions at `rows`: numbers, or a mask [N]."""
        chosen: dict[str, Any] = {name: values[rows] for name, values in self.columns().items()}
        return replace(self, **chosen)

    def with_rewards(self, rewards: NDArray[np.floating[Any]]) -> Self:
        """The same transitions with other rewards [N]."""
        return replace(self, rewards=np.asarray(rewards, dtype=np.float32))

    def episode_returns(self) -> NDArray[np.float64]:
        """[N] the sum of rewards of each transition's episode."""
        places = np.unique(self.episodes, return_inverse=True)[1]
        sums = np.bincount(places, weights=self.rewards.astype(np.float64))
        returns: NDArray[np.float64] = sums[places].astype(np.float64)
        return returns

    def episode_starts(self) -> NDArray[np.int64]:
        """[E] the first row of each episode, in order of the episodes' numbers."""
        return np.unique(self.episodes, return_index=True)[1]


@dataclass(frozen=True)
class RewardMap:
    """What a run makes of every reward, whenever it is earned: (reward - shift) / divisor * factor."""

    shift: float = 0.0
    divisor: float = 1.0
    factor: float = 1.0

    def __call__(self, transitions: Transitions) -> Transitions:
        """The same transitions with such rewards."""
        rewards = transitions.rewards.astype(np.float64)
        return transitions.with_rewards((rewards - self.shift) / self.divisor * self.factor)


def reward_map(transitions: Transitions, scale: RewardScale, discount: float) -> RewardMap:
    """Brings rewards to a scale that advantages, and so a temperature, can be chosen for.

    Args:
        transitions: the data that the scale is that of.
        scale: "none" leaves rewards; "returns" divides by the range of the episodes' returns and multiplies by 1000, as
            the authors of IQL do on locomotion; "nonpositive" maps the least reward to -1 and the greatest to 0, so
            that a terminal, after which nothing is earned, is never worse than going on; "values" is that times
            1 - discount, so that values lie in [-1, 0] whatever the discount is. Use it for learned rewards: with
            rewards of -1, values go down to -1 / (1 - discount), and a temperature that fits once critics are right
            makes noise of their errors until then.
        discount: of rewards, a control step.

    Raises:
        ReflexError: under "returns", all returns are the same.
    """
    if scale == "none":
        return RewardMap()
    if scale == "returns":
        returns = transitions.episode_returns()
        if (spread := float(np.ptp(returns))) < LEAST_RETURN_RANGE:
            raise ReflexError(
                f"reward_scale=returns divides by the range of the episodes' returns, and all are {returns[0]:g}; use "
                "reward_scale=none or nonpositive, or another reward"
            )
        return RewardMap(divisor=spread, factor=1000.0)
    rewards = transitions.rewards.astype(np.float64)
    spread = float(np.ptp(rewards))
    divisor = spread if spread >= LEAST_RETURN_RANGE else 1.0
    return RewardMap(float(rewards.max()), divisor, 1.0 - discount if scale == "values" else 1.0)


def scale_rewards(transitions: Transitions, scale: RewardScale, discount: float) -> Transitions:
    """Transitions at the scale that `reward_map` finds for them; raises as it does."""
    return reward_map(transitions, scale, discount)(transitions)


def absorbing_ends(transitions: Transitions, discount: float) -> Transitions:
    """Every episode's end taken for a state in which the robot stays: its last reward r is earned for ever.

    That is worth r / (1 - discount). For logs of which nobody knows which episodes succeeded: a terminal after a
    success would give that away, and with a reward above 0 it would punish finishing. Transitions are of one step each.
    Raises `ReflexError` for a discount of 1.
    """
    if discount >= 1.0:
        raise ReflexError(
            "ends=absorbing earns the last reward for ever, which a discount of 1 makes infinite; lower it"
        )
    last = np.append(transitions.episodes[1:] != transitions.episodes[:-1], True)
    rewards = np.where(last, transitions.rewards / (1.0 - discount), transitions.rewards)
    return replace(transitions.with_rewards(rewards), terminals=last)


def chunk_transitions(transitions: Transitions, horizon: int, discount: float) -> Transitions:
    """Chunks of `horizon` actions of transitions of one step each, from every step at which there is one.

    A chunk earns the discounted sum of its rewards. One that reaches a terminal ends there, and its last action is
    repeated behind it. One that is truncated before its end is left out: nobody knows what it would have come to.
    Raises `ReflexError` where no episode is as long as a chunk.
    """
    if horizon == transitions.chunk_horizon:
        return transitions
    if transitions.chunk_horizon != 1:
        raise ReflexError(f"these transitions have chunks of {transitions.chunk_horizon} actions already")
    starts = np.append(transitions.episode_starts(), len(transitions))
    starts.sort()
    ends = starts[np.searchsorted(starts, np.arange(len(transitions)), side="right")]
    first = np.arange(len(transitions))
    last = np.minimum(first + horizon, ends) - 1
    kept = (last == first + horizon - 1) | transitions.terminals[last]
    if not kept.any():
        raise ReflexError(f"no episode has {horizon} steps; ask for a smaller chunk_horizon")
    first, last = first[kept], last[kept]
    steps = first[:, None] + np.arange(horizon)
    within = steps <= last[:, None]
    steps = np.minimum(steps, last[:, None])
    weights = np.where(within, discount ** np.arange(horizon), 0.0)
    return replace(
        transitions.take(first),
        actions=transitions.actions[steps].reshape(len(first), -1),
        rewards=(transitions.rewards[steps] * weights).sum(axis=1).astype(np.float32),
        next_observations=transitions.next_observations[last],
        terminals=transitions.terminals[last],
        spans=last - first + 1,
        chunk_horizon=horizon,
    )
