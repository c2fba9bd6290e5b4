"""Who can play an episode beside a policy: experts, random and still arms, actions that were recorded.

A suite's `Expert` is an actor as it is. A policy decides for many environments at once: see `pool_rollouts`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim.contract import ACTION_SIZE, FloatArray, ManipulationEnvironment

EXPERT, RANDOM = "expert", "random"
"""Names of the suite's experts and of an arm that moves at random, where a policy's is asked for."""

GRIPPER_OPEN = -1.0


class Actor(Protocol):
    """Chooses actions for one environment."""

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Start a new episode from the environment's present state."""

    def act(self, environment: ManipulationEnvironment) -> FloatArray | None:
        """The next action [7], clipped to [-1, 1] where it is played; None for no more, which ends the episode."""


class Random:
    """Moves uniformly at random in [-1, 1]."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Nothing to look at."""

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        return self._generator.uniform(-1.0, 1.0, ACTION_SIZE).astype(np.float32)


class Still:
    """Does as another actor does for some steps, then does not move and holds the gripper as it was (open at first)."""

    def __init__(self, actor: Actor | None = None, stop: int = 0) -> None:
        """`stop` is the number of control steps that `actor` acts; without an actor it never moves."""
        self._actor, self._left, self._gripper = actor, stop, GRIPPER_OPEN

    def reset(self, environment: ManipulationEnvironment) -> None:
        if self._actor is not None:
            self._actor.reset(environment)

    def act(self, environment: ManipulationEnvironment) -> FloatArray | None:
        self._left -= 1
        if self._actor is None or self._left < 0:
            return np.array([0.0] * (ACTION_SIZE - 1) + [self._gripper], dtype=np.float32)
        action = self._actor.act(environment)
        if action is not None:
            self._gripper = float(action[-1])
        return action


class Replayed:
    """Plays recorded actions [T, 7]."""

    def __init__(self, actions: NDArray[np.float32]) -> None:
        self._actions = iter(actions)

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Nothing to look at."""

    def act(self, environment: ManipulationEnvironment) -> FloatArray | None:
        return next(self._actions, None)


class Paced:
    """Another actor, its translations shortened to at most `pace` (1 is full speed) in the same direction."""

    def __init__(self, actor: Actor, pace: float) -> None:
        self._actor, self._pace = actor, pace

    def reset(self, environment: ManipulationEnvironment) -> None:
        self._actor.reset(environment)

    def act(self, environment: ManipulationEnvironment) -> FloatArray | None:
        action = self._actor.act(environment)
        return None if action is None else at_pace(clipped(action), self._pace)


def clipped(action: NDArray[np.floating]) -> FloatArray:
    """The action [7] as float32 within [-1, 1]."""
    return np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)


def at_pace(action: FloatArray, pace: float) -> FloatArray:
    """The action [7] with its translation shortened to at most `pace` (1 is full speed) in the same direction."""
    slowed = action.copy()
    slowed[:3] *= min(1.0, pace / max(float(np.linalg.norm(action[:3])), 1e-9))
    return slowed


def action_noise(generator: np.random.Generator, deviation: float) -> Callable[[FloatArray], FloatArray]:
    """Gaussian noise of a deviation on the first six numbers of an executed action [7], within [-1, 1] in all.

    The recorded action stays the actor's: the data then shows how to come back from states off its path (DART, Laskey
    et al. 2017). At 0 nothing is drawn.
    """

    def executed(action: FloatArray) -> FloatArray:
        noisy = action.copy()
        if deviation > 0:
            noisy[:6] += generator.normal(0.0, deviation, 6).astype(np.float32)
        return clipped(noisy)

    return executed
