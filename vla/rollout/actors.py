"""Who can play an episode beside a policy: experts, random and still arms, actions that were recorded.

A suite's `Expert` is an actor as it is. A policy decides for many environments at once: see `pool_rollouts`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim.contract import FloatArray, ManipulationEnvironment
from sim.embodiments import Embodiment

EXPERT, RANDOM = "expert", "random"
"""Names of the suite's experts and of an arm that moves at random, where a policy's is asked for."""


class Actor(Protocol):
    """Chooses actions for one environment."""

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Start a new episode from the environment's present state."""

    def act(self, environment: ManipulationEnvironment) -> FloatArray | None:
        """The next action [A], clipped to its limits where it is played; None for no more, which ends the episode."""


class Random:
    """Draws every command uniformly within its limits, or in [-1, 1] where none are known."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Nothing to look at."""

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        commands = environment.embodiment.action
        size = commands.size
        return self._generator.uniform(commands.low or -1.0, commands.high or 1.0, size).astype(np.float32)


class Still:
    """Does as another actor does for some steps, then does not move and holds the gripper as it was (open at first)."""

    def __init__(self, actor: Actor | None = None, stop: int = 0) -> None:
        """`stop` is the number of control steps that `actor` acts; without an actor it never moves."""
        self._actor, self._left = actor, stop
        self._last: FloatArray | None = None

    def reset(self, environment: ManipulationEnvironment) -> None:
        self._last = None
        if self._actor is not None:
            self._actor.reset(environment)

    def act(self, environment: ManipulationEnvironment) -> FloatArray | None:
        self._left -= 1
        if self._actor is None or self._left < 0:
            self._last = staying(environment, self._last)
            return self._last
        self._last = self._actor.act(environment)
        return self._last


def staying(environment: ManipulationEnvironment, last: FloatArray | None) -> FloatArray:
    """The command [A] that keeps the robot where it is and its gripper as the `last` command had it (open at first).

    Where an embodiment has no such command its actions are positions: the last ones stay, or those that it feels.

    Raises:
        ValueError: there was no command, and the state does not say the positions that the actions set.
    """
    commands, state = environment.embodiment.action, environment.embodiment.state
    if commands.stay is None:
        if last is not None:
            return last
        if state.names[: commands.size] != commands.names:
            raise ValueError(f"{environment.embodiment.name} does not say how to stay where it is")
        return environment.robot_state()[: commands.size]
    action = np.array(commands.stay, dtype=np.float32)
    if commands.gripper is not None:
        action[commands.gripper] = commands.gripper_open if last is None else last[commands.gripper]
    return action


class Replayed:
    """Plays recorded actions [T, A]."""

    def __init__(self, actions: NDArray[np.float32]) -> None:
        self._actions = iter(actions)

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Nothing to look at."""

    def act(self, environment: ManipulationEnvironment) -> FloatArray | None:
        return next(self._actions, None)


class Paced:
    """Another actor, its translations shortened to at most `pace` (1 is full speed) in the same direction.

    For end-effector deltas, whose first three numbers are the translation.
    """

    def __init__(self, actor: Actor, pace: float) -> None:
        self._actor, self._pace = actor, pace

    def reset(self, environment: ManipulationEnvironment) -> None:
        self._actor.reset(environment)

    def act(self, environment: ManipulationEnvironment) -> FloatArray | None:
        action = self._actor.act(environment)
        return None if action is None else at_pace(environment.embodiment.action.clip(action), self._pace)


def at_pace(action: FloatArray, pace: float) -> FloatArray:
    """The action [A] with its translation shortened to at most `pace` (1 is full speed) in the same direction."""
    slowed = action.copy()
    slowed[:3] *= min(1.0, pace / max(float(np.linalg.norm(action[:3])), 1e-9))
    return slowed


def action_noise(
    generator: np.random.Generator, deviation: float, embodiment: Embodiment
) -> Callable[[FloatArray], FloatArray]:
    """Gaussian noise on an executed action [A], all but its gripper, within its limits in all.

    `deviation` is a share of half of each command's range, or in its units where no limits are known. The recorded
    action stays the actor's: the data then shows how to come back from states off its path (DART, Laskey et al. 2017).
    At 0 nothing is drawn.
    """
    commands = embodiment.action
    noisy = [number for number in range(commands.size) if number != commands.gripper]
    low, high = commands.low or (-1.0,) * commands.size, commands.high or (1.0,) * commands.size
    halves = (np.array(high, np.float32) - np.array(low, np.float32)) / np.float32(2)

    def executed(action: FloatArray) -> FloatArray:
        disturbed = action.copy()
        if deviation > 0:
            disturbed[noisy] += halves[noisy] * generator.normal(0.0, deviation, len(noisy)).astype(np.float32)
        return commands.clip(disturbed)

    return executed
