"""Training rollouts, and the transitions that they become: as if they had been recorded and read with the logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import Suite
from sim.pool import EnvironmentPool, EpisodeRequest
from vla.data.episode import Episode
from vla.evaluation.runner import FRAME_BUDGET
from vla.offline.online.rewards import EpisodeReward
from vla.offline.sources import episode_steps, joined
from vla.offline.transitions import Transitions
from vla.policies.protocol import Policy
from vla.policies.sampling import as_it_is
from vla.rollout.pool_rollouts import play_rollouts
from vla.rollout.requests import RolloutRequest
from vla.run.seeding import derive_seed


@dataclass(frozen=True)
class Round:
    """What was played in one round."""

    transitions: Transitions
    """Of single steps, with rewards as they were given."""
    records: list[dict[str, Any]]
    """A line of `episodes.jsonl` for each episode, in the order in which they were asked for."""


def training_requests(suite: Suite, tasks: Sequence[int], first: int, count: int, seed: int) -> list[RolloutRequest]:
    """Training rollouts number `first` and on: tasks take turns, each from one of its initial states at random.

    A rollout depends on the seed and its number, and not on how many there are in a round.
    """
    requests = []
    for number in range(first, first + count):
        task = tasks[number % len(tasks)]
        states = np.random.default_rng(derive_seed("online initial states", seed, number))
        state = int(states.integers(suite.num_init_states(task, "train")))
        requests.append(RolloutRequest(EpisodeRequest(task, "train", state), derive_seed("online", seed, number)))
    return requests


def play_round(
    policy: Policy,
    pool: EnvironmentPool,
    suite: Suite,
    requests: Sequence[RolloutRequest],
    reward: EpisodeReward,
    *,
    first: int,
    temperature: float,
) -> Round:
    """Roll out a policy, sampling its actions, and turn episodes into transitions as they end.

    Args:
        policy, pool, suite, requests: as of `play_rollouts`; the policy acts on the suite's robot.
        reward: of an episode.
        first: number of the first episode.
        temperature: of the sampling.

    Raises `ReflexError` and `EnvironmentRequestError` as `play_rollouts` and the reward do.
    """
    parts: dict[int, dict[str, NDArray[Any]]] = {}
    records: dict[int, dict[str, Any]] = {}

    def finished(index: int, episode: Episode) -> None:
        parts[index] = transitions_of(episode, reward, first + index)
        records[index] = episode.record()

    play_rollouts(
        policy,
        pool,
        suite,
        requests,
        finished,
        sampling=as_it_is(temperature),
        frame_stride=1,  # a chunk of actions begins at every step, and not only where the policy decided
        frame_budget=FRAME_BUDGET,
    )
    order = range(len(requests))
    return Round(joined([parts[index] for index in order], suite.embodiment), [records[index] for index in order])


def transitions_of(episode: Episode, reward: EpisodeReward, number: int) -> dict[str, NDArray[Any]]:
    """The columns of `Transitions` of one rollout, the same as of a recording of it.

    What was seen after the last action is left out: the logs have no such picture, neither for values nor for a reward
    model.
    """
    before = slice(0, episode.length)
    recorded = replace(
        episode,
        observation_steps=episode.observation_steps[before],
        images={camera: frames[before] for camera, frames in episode.images.items()},
        states=episode.states[before],
    )
    return episode_steps(recorded.states, recorded.actions, reward(recorded), recorded.success, number)
