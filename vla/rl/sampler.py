"""Which rollouts an iteration makes: a pure function of the seed and the iteration, so a resumed run makes the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from vla.training.seeding import derive_seed


@dataclass(frozen=True)
class GroupRequest:
    """A group of rollouts from one training initial state."""

    task_id: int
    init_state_id: int
    seeds: tuple[int, ...]
    """Action-sampling seed of each rollout; all different."""

    @property
    def start(self) -> tuple[int, int]:
        """(task, initial state)."""
        return self.task_id, self.init_state_id


def choose_groups(
    init_states: Mapping[int, int],
    count: int,
    group_size: int,
    *,
    seed: int,
    iteration: int,
    sampling_round: int = 0,
    exclude: Collection[tuple[int, int]] = (),
) -> list[GroupRequest]:
    """Choose `count` different initial states outside `exclude`, spread evenly over the tasks.

    Args:
        init_states: how many training initial states each task has.
        count: groups wanted; fewer come back only when every state of every task is used up.
        group_size: rollouts in each group.
        seed, iteration, sampling_round: together they determine the result.
        exclude: (task, initial state) pairs this iteration has rolled out already.
    """
    generator = stream_generator("groups", seed, iteration, sampling_round)
    free = {
        task: [int(state) for state in generator.permutation(total) if (task, int(state)) not in exclude]
        for task, total in sorted(init_states.items())
    }
    starts: list[tuple[int, int]] = []
    while len(starts) < count and any(free.values()):
        for task in generator.permutation([task for task, states in free.items() if states]).tolist():
            if len(starts) < count:
                starts.append((task, free[task].pop()))
    seeds = rollout_seeds(len(starts) * group_size, seed, iteration, sampling_round)
    return [
        GroupRequest(task, state, tuple(seeds[index * group_size : (index + 1) * group_size]))
        for index, (task, state) in enumerate(starts)
    ]


def rollout_seeds(count: int, seed: int, iteration: int, sampling_round: int = 0) -> list[int]:
    """`count` action-sampling seeds, one for each rollout of a round."""
    return [derive_seed("rollouts", seed, iteration, sampling_round, index) for index in range(count)]


def stream_generator(stream: str, seed: int, iteration: int, sampling_round: int = 0) -> np.random.Generator:
    """The generator of one purpose (e.g. "groups", "samples") in one iteration; streams are independent."""
    return np.random.default_rng(derive_seed(stream, seed, iteration, sampling_round))
