"""Which rollouts an iteration makes: a pure function of the seed, the iteration and what earlier rollouts came to.

A resumed run, which reads those from `episodes.jsonl`, so makes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vla.run.seeding import derive_seed

Start = tuple[int, int, int]
"""(task, initial state, control steps of a demonstration before it: 0 for none)."""
InitialStates = Literal["even", "uncertain"]
SOLVED_WEIGHT = 0.1
"""Of a state whose last group succeeded throughout, against 1 for one where half the rollouts succeeded."""


@dataclass(frozen=True)
class GroupRequest:
    """A group of rollouts from one training initial state."""

    task_id: int
    init_state_id: int
    seeds: tuple[int, ...]
    """Action-sampling seed of each rollout; all different."""
    lead: tuple[tuple[float, ...], ...] = ()
    """Actions of a demonstration to go on from."""

    @property
    def start(self) -> Start:
        """Where it begins."""
        return self.task_id, self.init_state_id, len(self.lead)


def choose_groups(
    init_states: Mapping[int, int],
    count: int,
    group_size: int,
    *,
    seed: int,
    iteration: int,
    sampling_round: int = 0,
    exclude: Collection[Start] = (),
    initial_states: InitialStates = "even",
    success_rates: Mapping[Start, float] | None = None,
    eligible: Callable[[Sequence[int], Mapping[Start, float]], list[int]] | None = None,
) -> list[GroupRequest]:
    """Choose `count` different initial states outside `exclude`.

    Args:
        init_states: how many training initial states each task has.
        count: groups wanted; fewer come back only when every state of every task is used up.
        group_size: rollouts in each group.
        seed, iteration, sampling_round: together they determine the result.
        exclude: states this iteration has rolled out already.
        initial_states: "even" takes all tasks alike, "uncertain" draws states with `state_weight`.
        success_rates: share of successes of each state's last group, as far as there was one.
        eligible: maps tasks and success rates to the tasks to choose from; None for all.
    """
    generator = stream_generator("groups", seed, iteration, sampling_round)
    free = {
        task: [int(state) for state in generator.permutation(total) if (task, int(state), 0) not in exclude]
        for task, total in sorted(init_states.items())
    }
    rates = success_rates or {}
    if eligible is not None:
        free = {task: free[task] for task in eligible(list(free), rates)}
    if initial_states == "uncertain":
        starts = _by_weight(
            [(task, state, 0) for task, states in free.items() for state in states], count, rates, group_size, generator
        )
    else:
        starts = _evenly(free, count, generator)
    seeds = rollout_seeds(len(starts) * group_size, seed, iteration, sampling_round)
    return [
        GroupRequest(task, state, tuple(seeds[index * group_size : (index + 1) * group_size]))
        for index, (task, state, _) in enumerate(starts)
    ]


def _evenly(free: dict[int, list[int]], count: int, generator: np.random.Generator) -> list[Start]:
    starts: list[Start] = []
    while len(starts) < count and any(free.values()):
        for task in generator.permutation([task for task, states in free.items() if states]).tolist():
            if len(starts) < count:
                starts.append((task, free[task].pop(), 0))
    return starts


def _by_weight(
    starts: list[Start],
    count: int,
    success_rates: Mapping[Start, float],
    group_size: int,
    generator: np.random.Generator,
) -> list[Start]:
    if not starts:
        return []
    weights = np.array([state_weight(success_rates.get(start), group_size) for start in starts])
    drawn = generator.choice(len(starts), min(count, len(starts)), replace=False, p=weights / weights.sum())
    return [starts[index] for index in drawn.tolist()]


def state_weight(success_rate: float | None, group_size: int) -> float:
    """How much an initial state is wanted: the variance of its outcome, times 4; 1 where nothing is known yet.

    The chance of success is estimated as (k + 1) / (n + 2) from the k successes of its last group of n (Laplace's rule
    of succession), so that one success among eight rollouts outweighs none: 4 p (1 - p) is 0.64 and 0.36. A state that
    succeeded throughout gives no gradient while it does so, and gets `SOLVED_WEIGHT`.
    """
    if success_rate is None:
        return 1.0
    if success_rate == 1.0:
        return SOLVED_WEIGHT
    chance = (success_rate * group_size + 1) / (group_size + 2)
    return 4.0 * chance * (1.0 - chance)


def last_success_rates(episodes: Iterable[Mapping[str, Any]]) -> dict[Start, float]:
    """The share of successes of each start's newest group, from lines of `episodes.jsonl`."""
    newest: dict[Start, tuple[int, list[bool]]] = {}
    for line in episodes:
        if line["split"] != "train":
            continue
        start = int(line["task_id"]), int(line["init_state_id"]), int(line.get("lead_steps", 0))
        step = int(line["step"])
        if start not in newest or newest[start][0] != step:
            newest[start] = (step, [])
        newest[start][1].append(bool(line["success"]))
    return {start: float(np.mean(outcomes)) for start, (_, outcomes) in newest.items()}


def rollout_seeds(count: int, seed: int, iteration: int, sampling_round: int = 0) -> list[int]:
    """`count` action-sampling seeds, one for each rollout of a round."""
    return [derive_seed("rollouts", seed, iteration, sampling_round, index) for index in range(count)]


def stream_generator(stream: str, seed: int, iteration: int, sampling_round: int = 0) -> np.random.Generator:
    """The generator of one purpose (e.g. "groups", "samples") in one iteration; streams are independent."""
    return np.random.default_rng(derive_seed(stream, seed, iteration, sampling_round))
