"""Rollout collection: a policy plays requested episodes in an environment pool, and every slot is kept busy.

Slots are split into two groups that take turns: while the workers simulate one group's chunks, this process runs the
policy for the other. Groups, batches and the order in which requests are handed out depend on the number of slots and
on what happens in the episodes, never on timing or on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, Suite, stack_observations
from sim.pool import ChunkResult, EnvironmentPool
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.policies.protocol import Policy, PolicyOutput
from vla.policies.sampling import GREEDY, Sampling
from vla.rollout.builder import EpisodeBuilder
from vla.rollout.requests import RolloutRequest

__all__ = ["RolloutRequest", "collect_rollouts", "decision_indices", "frame_bytes", "play_rollouts"]

FEWEST_SLOTS = 8
"""Episodes that run at the same time however little memory their frames may take."""


@dataclass
class _Rollout:
    """An episode that runs in a slot."""

    index: int
    wanted: RolloutRequest
    generator: np.random.Generator
    builder: EpisodeBuilder


@dataclass
class _Group:
    """Slots that decide together."""

    free: list[int]
    rollouts: dict[int, _Rollout] = field(default_factory=dict)
    """By slot."""


def play_rollouts(
    policy: Policy,
    pool: EnvironmentPool,
    suite: Suite,
    requests: Sequence[RolloutRequest],
    on_episode: Callable[[int, Episode], None],
    *,
    sampling: Sampling = GREEDY,
    frame_stride: int | None = None,
    keep_inputs: bool = False,
    groups: int = 2,
    frame_budget: int | None = None,
) -> None:
    """Roll out every request and hand each episode out as it ends; none is kept.

    A slot starts the next request as soon as its episode ends. Each episode samples from its own generator, seeded by
    its request, so it does not depend on which episodes share its batches (up to the rounding of batched arithmetic),
    and not at all on the number of workers. `on_episode(index, episode)` gets the request's index; the order is that of
    completion, which is the same in every run. `frame_stride` adds frames after every step that is a multiple of it;
    frames at decisions and the final one are always kept. `keep_inputs` gives episodes what the policy's network took
    in. `sampling` says how the policy's actions are drawn. `groups` = 1 lets simulation and inference wait for
    each other. `frame_budget` bounds the bytes of frames that are in memory by playing in fewer slots, but not in fewer
    than `FEWEST_SLOTS`; None plays in all.

    Raises `EnvironmentRequestError` for an unknown task or initial state before anything runs, and what the pool
    raises when an environment or worker fails; `ReflexError` when the policy's output does not fit its spec.
    """
    _check_requests(suite, requests)
    if not requests:
        return
    decide = partial(policy.act, sampling=sampling)
    num_slots = pool.num_slots
    if frame_budget is not None:
        per_episode = frame_bytes(suite, requests, policy.spec.execute_steps, frame_stride)
        num_slots = min(num_slots, max(FEWEST_SLOTS, frame_budget // max(per_episode, 1)))
    starting = (
        _Rollout(
            index,
            item,
            np.random.default_rng(item.seed),
            EpisodeBuilder(suite.name, suite.embodiment, item, policy.policy_id),
        )
        for index, item in enumerate(requests)
    )
    turns = [_Group(free=list(slots)) for slots in _split(num_slots, groups)]
    for group in turns:
        _begin_resets(pool, group, starting)
    while any(group.rollouts for group in turns):
        for group in turns:
            finished = _finish_round(pool, group)
            # Resets go out before the policy runs; their slots join the group's next decision.
            _begin_resets(pool, group, starting)
            _begin_round(policy, decide, pool, group, frame_stride, keep_inputs)
            for rollout in finished:
                on_episode(rollout.index, rollout.builder.build(rollout.builder.observations[0]["instruction"]))


def collect_rollouts(
    policy: Policy,
    pool: EnvironmentPool,
    suite: Suite,
    requests: Sequence[RolloutRequest],
    *,
    on_episode: Callable[[int, Episode], None] | None = None,
    **settings: Any,
) -> list[Episode]:
    """Roll out every request, see `play_rollouts` and its settings, and return the episodes in request order."""
    episodes: dict[int, Episode] = {}

    def keep(index: int, episode: Episode) -> None:
        episodes[index] = episode
        if on_episode is not None:
            on_episode(index, episode)

    play_rollouts(policy, pool, suite, requests, keep, **settings)
    return [episodes[index] for index in range(len(requests))]


def frame_bytes(suite: Suite, requests: Sequence[RolloutRequest], execute_steps: int, frame_stride: int | None) -> int:
    """Bytes of all cameras' frames that the longest of these episodes keeps, with a decision every `execute_steps`."""
    horizon = max(suite.horizon(task) for task in {item.request.task_id for item in requests})
    kept = {*range(0, horizon, execute_steps), *range(0, horizon, frame_stride or horizon), horizon}
    return len(kept) * suite.embodiment.frame_bytes


def decision_indices(episode: Episode, execute_steps: int) -> NDArray[np.int64]:
    """Positions [D] in `observation_steps` (and the frames and states beside it) of an episode's decisions.

    Decisions happen every `execute_steps` control steps from step 0; the final observation is none.
    """
    decisions = np.arange(0, episode.length, execute_steps)
    return np.searchsorted(episode.observation_steps, decisions).astype(np.int64)


def _check_requests(suite: Suite, requests: Sequence[RolloutRequest]) -> None:
    for request in {item.request: None for item in requests}:
        count = suite.num_init_states(request.task_id, request.split)
        if not 0 <= request.init_state_id < count:
            raise EnvironmentRequestError(
                f"initial state {request.init_state_id} of task {request.task_id} does not exist: suite {suite.name} "
                f"has {count} ({request.split} split), numbered from 0"
            )


def _split(num_slots: int, groups: int) -> Iterator[range]:
    """Contiguous, nearly equal ranges of slots; contiguous, so that each one spreads over all workers."""
    groups = max(1, min(groups, num_slots))
    edges = [num_slots * index // groups for index in range(groups + 1)]
    return (range(start, end) for start, end in pairwise(edges))


def _begin_resets(pool: EnvironmentPool, group: _Group, starting: Iterator[_Rollout]) -> None:
    """Give each free slot the next request, while there are any."""
    slots = []
    while group.free and (rollout := next(starting, None)) is not None:
        slots.append(group.free.pop(0))
        group.rollouts[slots[-1]] = rollout
    pool.begin_reset(slots, [group.rollouts[slot].wanted.request for slot in slots])


def _finish_round(pool: EnvironmentPool, group: _Group) -> list[_Rollout]:
    """Wait for the group's chunks and resets. Returns the rollouts that ended, in slot order."""
    finished = []
    slots = sorted(group.rollouts)
    for slot, result in zip(slots, pool.finish(slots), strict=True):
        builder = group.rollouts[slot].builder
        if not isinstance(result, ChunkResult):
            builder.observe(result)
            continue
        builder.chunk(result)
        if result.done:
            finished.append(group.rollouts.pop(slot))
            group.free.append(slot)
    return finished


def _begin_round(
    policy: Policy,
    decide: Callable[..., PolicyOutput],
    pool: EnvironmentPool,
    group: _Group,
    frame_stride: int | None,
    keep_inputs: bool,
) -> None:
    """One decision for every slot of the group that has an observation, in slot order, and its chunk on its way."""
    slots = sorted(slot for slot, rollout in group.rollouts.items() if rollout.builder.observations)
    if not slots:
        return
    rollouts = [group.rollouts[slot] for slot in slots]
    output = decide(
        stack_observations([rollout.builder.observations[-1] for rollout in rollouts]),
        generators=[rollout.generator for rollout in rollouts],
    )
    execute_steps = policy.spec.execute_steps
    if len(output.actions) != len(slots) or output.actions.shape[1] < execute_steps:
        raise ReflexError(
            f"policy {policy.policy_id} returned actions of shape {list(output.actions.shape)} for {len(slots)} "
            f"observations; its spec says {policy.spec.chunk_horizon} actions, {execute_steps} of them executed"
        )
    pool.begin_step_chunk(slots, output.actions[:, :execute_steps], frame_stride)
    for row, rollout in enumerate(rollouts):
        rollout.builder.decide(output, row, keep_inputs)
