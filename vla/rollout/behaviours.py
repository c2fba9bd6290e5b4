"""Actors of known quality for data sets of mixed quality: random, medium, expert, and stated shares of them.

A medium episode is the expert's with one flaw, of random severity, in what is executed and recorded alike:

| flaw | what is wrong |
|---|---|
| wandering | bursts of random actions between the expert's |
| noisy | Gaussian noise on every action |
| slow | moves at a fraction of full speed, and may not arrive in time |
| misaimed | a constant drift to one side, so that it arrives beside what it is after |
| abandoned | stops and stands still to the end |
| wrong_task | begins with another task of the same scene, such as the other cube |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sim.contract import FloatArray, ManipulationEnvironment, Suite
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.rollout.actors import EXPERT, RANDOM, Actor, Paced, Random, Still, action_noise
from vla.rollout.play import Player
from vla.rollout.requests import RolloutRequest
from vla.run.settings import Checks

Behaviour = Literal["random", "medium", "expert", "mixed"]

MEDIUM, MIXED = "medium", "mixed"

FLAWS = ("wandering", "noisy", "slow", "misaimed", "abandoned", "wrong_task")

LONGEST_BURST = 6
"""Control steps for which a wandering expert holds a random action, at most."""


@dataclass(frozen=True)
class Mixture:
    """How much of a mixed data set each behaviour makes up, in relation to the others."""

    random: float = 0.25
    """Share of episodes with actions drawn at random."""
    medium: float = 0.65
    """Share of episodes of a flawed expert."""
    expert: float = 0.1
    """Share of episodes of the expert as it is."""

    def __post_init__(self) -> None:
        Checks(self, "mixture.").within(0, 1, "random", "medium", "expert")
        if not self.random + self.medium + self.expert > 0:
            raise ReflexError("mixture.random, mixture.medium and mixture.expert are all 0; one must be above")


def allot(mixture: Mixture, count: int, seed: int, task_id: int) -> list[str]:
    """The behaviour of each of a task's `count` episodes, in random order.

    Numbers of episodes are as near to the shares as whole numbers can be (largest remainders).
    """
    shares = {RANDOM: mixture.random, MEDIUM: mixture.medium, EXPERT: mixture.expert}
    exact = {name: count * share / sum(shares.values()) for name, share in shares.items()}
    numbers = {name: int(number) for name, number in exact.items()}
    by_remainder = sorted(exact, key=lambda name: numbers[name] - exact[name])
    for name in by_remainder[: count - sum(numbers.values())]:
        numbers[name] += 1
    names = [name for name, number in numbers.items() for _ in range(number)]
    return [str(name) for name in np.random.default_rng([seed, task_id]).permutation(names)]


def play_behaviour(player: Player, behaviour: str, wanted: RolloutRequest, restarted: bool = False) -> Episode:
    """Play an episode with "random", "medium" or "expert" behaviour, with a frame at every control step.

    Its `policy_id` says which, and a medium one's flaw too: "medium_slow". Everything is drawn from the request's seed.
    Raises `EnvironmentRequestError` for a task without an expert.
    """
    name, actor = _make_actor(player, behaviour, wanted)
    return player.play(wanted, actor, name, worker_restarted=restarted, frame_stride=1)


def _make_actor(player: Player, behaviour: str, wanted: RolloutRequest) -> tuple[str, Actor]:
    """Who plays, and its name."""
    suite = player.suite
    generator = np.random.default_rng(wanted.seed)
    if behaviour == RANDOM:
        return RANDOM, Random(generator)
    task_id = wanted.request.task_id
    expert = suite.make_expert(task_id, wanted.seed)
    if behaviour == EXPERT:
        return EXPERT, expert
    others = suite.tasks_of_same_scene(task_id)
    possible = [flaw for flaw in FLAWS if _is_possible(flaw, suite, bool(others))]
    flaw = possible[int(generator.integers(len(possible)))]
    name = f"{MEDIUM}_{flaw}"
    if flaw == "wrong_task":
        wrong = suite.make_expert(others[int(generator.integers(len(others)))], wanted.seed)
        return name, Afterwards(wrong, expert, int(suite.horizon(task_id) * generator.uniform(0.15, 1.0)))
    if flaw == "abandoned":
        # It stops at a random share of the time that the same expert needs from the same state.
        outcomes = player.play(wanted, expert, name).rewards
        whole = int(outcomes.argmax()) + 1 if outcomes.any() else len(outcomes)
        return name, Still(suite.make_expert(task_id, wanted.seed), int(whole * generator.uniform(0.1, 0.95)))
    return name, _flawed(expert, flaw, suite, generator)


def _is_possible(flaw: str, suite: Suite, has_other_task: bool) -> bool:
    if flaw == "wrong_task":
        return has_other_task
    # Both change the first three numbers as a translation.
    return flaw not in ("slow", "misaimed") or suite.embodiment.action.kind == "end_effector_delta"


def _flawed(expert: Actor, flaw: str, suite: Suite, generator: np.random.Generator) -> Actor:
    if flaw == "wandering":
        return Wandering(expert, generator, share=generator.uniform(0.2, 0.7))
    if flaw == "noisy":
        return Changed(expert, action_noise(generator, generator.uniform(0.1, 0.6), suite.embodiment))
    if flaw == "slow":
        return Paced(expert, generator.uniform(0.1, 0.5))
    assert flaw == "misaimed"
    return Changed(expert, sideways(generator.uniform(0.0, 2.0 * np.pi), generator.uniform(0.1, 0.6)))


class Changed:
    """Another actor, each of its actions [A] changed by a function."""

    def __init__(self, actor: Actor, change: Callable[[FloatArray], FloatArray]) -> None:
        self._actor, self._change = actor, change

    def reset(self, environment: ManipulationEnvironment) -> None:
        self._actor.reset(environment)

    def act(self, environment: ManipulationEnvironment) -> FloatArray | None:
        action = self._actor.act(environment)
        return None if action is None else self._change(environment.embodiment.action.clip(action))


def sideways(direction: float, strength: float) -> Callable[[FloatArray], FloatArray]:
    """Adds `strength` (a share of full speed) in a horizontal `direction` (rad) to an action [A] that moves."""
    drift = np.array([strength * np.cos(direction), strength * np.sin(direction)], np.float32)

    def drifted(action: FloatArray) -> FloatArray:
        moved = action.copy()
        moved[:2] += drift
        return moved

    return drifted


class Wandering:
    """Another actor, interrupted by bursts of 1 to `LONGEST_BURST` control steps that hold a random action."""

    def __init__(self, actor: Actor, generator: np.random.Generator, share: float) -> None:
        """`share` is that of the control steps in bursts, on average; below 1."""
        self._actor, self._generator = actor, generator
        self._random = Random(generator)
        mean_burst = (1 + LONGEST_BURST) / 2
        # Between two bursts lie as many of the actor's steps, on average, as leave bursts their share.
        self._chance = share / (share + mean_burst * (1.0 - share))
        self._held: FloatArray | None = None
        self._left = 0

    def reset(self, environment: ManipulationEnvironment) -> None:
        self._left = 0
        self._actor.reset(environment)

    def act(self, environment: ManipulationEnvironment) -> FloatArray | None:
        intended = self._actor.act(environment)  # asked each time: an expert may count its control steps
        if self._left == 0 and self._generator.uniform() < self._chance:
            self._left = int(self._generator.integers(1, LONGEST_BURST + 1))
            self._held = self._random.act(environment)
        if self._left == 0:
            return intended
        self._left -= 1
        return self._held


class Afterwards:
    """One actor for some control steps, then another from the state it left."""

    def __init__(self, first: Actor, second: Actor, switch: int) -> None:
        """`switch` is the number of control steps that `first` acts."""
        self._first, self._second, self._left = first, second, switch

    def reset(self, environment: ManipulationEnvironment) -> None:
        self._first.reset(environment)

    def act(self, environment: ManipulationEnvironment) -> FloatArray | None:
        if self._left > 0:
            self._left -= 1
            return self._first.act(environment)
        if self._left == 0:
            self._left = -1
            self._second.reset(environment)
        return self._second.act(environment)
