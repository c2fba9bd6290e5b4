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

from sim.contract import EnvironmentRequestError, Observation, Suite, stack_observations
from sim.pool import ChunkResult, EnvironmentPool, EpisodeRequest
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.policies.protocol import Mode, Policy, PolicyOutput


@dataclass(frozen=True)
class RolloutRequest:
    """One episode to roll out, and the seed of its action sampling."""

    request: EpisodeRequest
    seed: int


@dataclass
class _Rollout:
    """An episode in the making."""

    index: int
    request: RolloutRequest
    generator: np.random.Generator
    steps: int = 0
    observation_steps: list[int] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    tokens: list[NDArray[np.int64]] = field(default_factory=list)
    log_probs: list[NDArray[np.float32]] = field(default_factory=list)
    features: list[NDArray[np.float32]] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    results: list[ChunkResult] = field(default_factory=list)

    def observe(self, step: int, observation: Observation) -> None:
        self.observation_steps.append(step)
        self.observations.append(observation)

    def decide(self, output: PolicyOutput, row: int, execute_steps: int, keep_inputs: bool) -> None:
        self.actions.append(output.actions[row, :execute_steps])
        self.tokens.append(output.tokens[row])
        self.log_probs.append(output.log_probs[row])
        if output.features is not None:
            self.features.append(output.features[row])
        if keep_inputs and output.inputs is not None:
            self.inputs.append(output.inputs[row : row + 1])

    def advance(self, result: ChunkResult) -> None:
        """Note a finished chunk: keep its frames and drop the planned actions that were not executed."""
        for step, observation in zip(result.extra_steps, result.extra_observations, strict=True):
            self.observe(self.steps + step, observation)
        self.steps += result.steps
        self.observe(self.steps, result.observation)
        self.actions[-1] = self.actions[-1][: result.steps]
        self.results.append(result)

    def episode(self, suite: Suite, policy_id: str) -> Episode:
        """The finished record, in arrays of its own."""
        request = self.request.request
        return Episode(
            suite=suite.name,
            task_id=request.task_id,
            instruction=self.observations[0]["instruction"],
            split=request.split,
            init_state_id=request.init_state_id,
            seed=self.request.seed,
            policy_id=policy_id,
            success=self.results[-1].success,
            actions=np.concatenate(self.actions).astype(np.float32, copy=False),
            observation_steps=np.array(self.observation_steps, dtype=np.int64),
            images=np.stack([observation["image"] for observation in self.observations]),
            wrist_images=np.stack([observation["wrist_image"] for observation in self.observations]),
            states=np.stack([observation["state"] for observation in self.observations]),
            rewards=np.concatenate([result.rewards for result in self.results]),
            costs=np.concatenate([result.costs for result in self.results]),
            progress=np.concatenate([result.progress for result in self.results]),
            tokens=np.stack(self.tokens).astype(np.int64, copy=False),
            log_probs=np.stack(self.log_probs).astype(np.float32, copy=False),
            features=np.stack(self.features) if self.features else None,
            inputs=type(self.inputs[0]).concatenate(self.inputs) if self.inputs else None,
            worker_restarted=any(result.worker_restarted for result in self.results),
        )


@dataclass
class _Group:
    """Slots that decide together. A slot is resetting, stepping or free."""

    free: list[int]
    resetting: list[int] = field(default_factory=list)
    stepping: list[int] = field(default_factory=list)
    rollouts: dict[int, _Rollout] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        return bool(self.rollouts)


def collect_rollouts(
    policy: Policy,
    pool: EnvironmentPool,
    suite: Suite,
    requests: Sequence[RolloutRequest],
    *,
    mode: Mode,
    temperature: float,
    token_noise: float = 0.0,
    chunk_correlation: float = 0.0,
    on_episode: Callable[[int, Episode], None] | None = None,
    frame_stride: int | None = None,
    keep_inputs: bool = False,
    groups: int = 2,
) -> list[Episode]:
    """Roll out every request and return the episodes in request order.

    A slot starts the next request as soon as its episode ends. Each episode samples from its own generator, seeded by
    its request, so it does not depend on which episodes share its batches (up to the rounding of batched arithmetic),
    and not at all on the number of workers. `on_episode(index, episode)` is called in order of completion, which is
    the same in every run. `frame_stride` adds frames after every step that is a multiple of it; frames at decisions
    and the final one are always kept. `keep_inputs` gives episodes what the policy's network took in. `token_noise` and
    `chunk_correlation`: see `Policy.act`. `groups` = 1 lets simulation and inference wait for each other.

    Raises `EnvironmentRequestError` for an unknown task or initial state before anything runs, and what the pool
    raises when an environment or worker fails; `ReflexError` when the policy's output does not fit its spec.
    """
    _check_requests(suite, requests)
    decide = partial(
        policy.act, mode=mode, temperature=temperature, token_noise=token_noise, chunk_correlation=chunk_correlation
    )
    waiting = iter(enumerate(requests))
    episodes: dict[int, Episode] = {}
    turns = [_Group(free=list(slots)) for slots in _split(pool.num_slots, groups)]
    for group in turns:
        _begin_resets(pool, group, waiting)
    while any(group.busy for group in turns):
        for group in turns:
            finished = _finish_round(pool, group)
            # Resets go out before the policy runs; their slots join the group's next decision.
            _begin_resets(pool, group, waiting)
            _begin_round(policy, decide, pool, group, frame_stride, keep_inputs)
            for rollout in finished:
                episode = rollout.episode(suite, policy.policy_id)
                episodes[rollout.index] = episode
                if on_episode is not None:
                    on_episode(rollout.index, episode)
    return [episodes[index] for index in range(len(requests))]


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


def _begin_resets(pool: EnvironmentPool, group: _Group, waiting: Iterator[tuple[int, RolloutRequest]]) -> None:
    """Give each free slot the next request, while there are any."""
    starting: list[EpisodeRequest] = []
    while group.free and (item := next(waiting, None)) is not None:
        index, request = item
        slot = group.free.pop(0)
        group.rollouts[slot] = _Rollout(index, request, np.random.default_rng(request.seed))
        group.resetting.append(slot)
        starting.append(request.request)
    pool.begin_reset(group.resetting[len(group.resetting) - len(starting) :], starting)


def _finish_round(pool: EnvironmentPool, group: _Group) -> list[_Rollout]:
    """Wait for the group's chunks and resets. Returns the rollouts that ended, in slot order."""
    for slot, observation in zip(group.resetting, pool.finish_reset(group.resetting), strict=True):
        group.rollouts[slot].observe(0, observation)
    group.resetting = []
    finished = []
    for slot, result in zip(group.stepping, pool.finish_step_chunk(group.stepping), strict=True):
        group.rollouts[slot].advance(result)
        if result.done:
            finished.append(group.rollouts.pop(slot))
            group.free.append(slot)
    group.stepping = []
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
    slots = sorted(slot for slot in group.rollouts if slot not in group.resetting)
    if not slots:
        return
    rollouts = [group.rollouts[slot] for slot in slots]
    output = decide(
        stack_observations([rollout.observations[-1] for rollout in rollouts]),
        generators=[rollout.generator for rollout in rollouts],
    )
    execute_steps = policy.spec.execute_steps
    if len(output.actions) != len(slots) or output.actions.shape[1] < execute_steps:
        raise ReflexError(
            f"policy {policy.policy_id} returned actions of shape {list(output.actions.shape)} for {len(slots)} "
            f"observations; its spec says {policy.spec.chunk_horizon} actions, {execute_steps} of them executed"
        )
    pool.begin_step_chunk(slots, output.actions[:, :execute_steps], frame_stride)
    group.stepping = slots
    for row, rollout in enumerate(rollouts):
        rollout.decide(output, row, execute_steps, keep_inputs)
