"""Rollout collection: the record it makes, its order, and its independence from workers."""

from __future__ import annotations

import dataclasses
import os
import signal
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, ObservationBatch
from sim.pool import EnvironmentPool, EpisodeRequest
from sim.suites import get_suite as get_named_suite
from sim.tabletop.true_state import PANDA_TRUE_STATE
from tests.fakes import HORIZON, FakeEnvironment, FakePolicy, get_suite
from tests.sim.odd_suite import LENGTH
from vla.data.episode import Episode
from vla.data.feature_map import SAME_NAMES
from vla.errors import ReflexError
from vla.policies.connect import connect
from vla.policies.protocol import PolicyOutput, PolicySpec
from vla.policies.sampling import GREEDY, Sampling
from vla.rollout.pool_rollouts import (
    FEWEST_SLOTS,
    RolloutRequest,
    collect_rollouts,
    decision_indices,
    frame_bytes,
    play_rollouts,
)

FACTORY = "tests.fake_suite:get_suite"
SUITE = get_suite()
REQUESTS = [
    RolloutRequest(EpisodeRequest(index % 3, "train" if index % 2 else "eval", index % 5), seed=100 + index)
    for index in range(17)
]


SAMPLED = Sampling(1.2, token_noise=0.0, chunk_correlation=0.0)


def roll_out(
    num_workers: int = 0,
    num_slots: int = 6,
    sampling: Sampling = SAMPLED,
    frame_stride: int | None = None,
    groups: int = 2,
    execute_steps: int = 8,
    requests: list[RolloutRequest] = REQUESTS,
) -> tuple[list[Episode], list[int]]:
    order: list[int] = []
    with EnvironmentPool("fake", num_slots, num_workers, factory=FACTORY) as pool:
        episodes = collect_rollouts(
            FakePolicy(execute_steps=execute_steps),
            pool,
            SUITE,
            requests,
            sampling=sampling,
            on_episode=lambda index, _: order.append(index),
            frame_stride=frame_stride,
            groups=groups,
        )
    return episodes, order


def assert_same(left: Episode, right: Episode) -> None:
    for field in dataclasses.fields(Episode):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if field.name == "log_probs":
            np.testing.assert_allclose(a, b, atol=1e-5)
        elif field.name == "images":
            for camera in b:
                np.testing.assert_array_equal(a[camera], b[camera], err_msg=camera)
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        elif field.name != "worker_restarted":
            assert a == b, field.name


def test_episodes_come_in_request_order_and_are_complete() -> None:
    episodes, order = roll_out(execute_steps=5)
    assert sorted(order) == list(range(len(REQUESTS)))
    assert order != sorted(order)  # some later episode ended first, so the slots did refill
    for episode, request in zip(episodes, REQUESTS, strict=True):
        assert (episode.task_id, episode.split, episode.init_state_id) == dataclasses.astuple(request.request)[:3]
        assert (episode.suite, episode.seed, episode.policy_id) == ("fake", request.seed, "fake-policy")
        assert episode.instruction == SUITE.instruction(episode.task_id)
        length, decisions = episode.length, -(-episode.length // 5)
        assert 0 < length <= HORIZON
        assert episode.success == (episode.rewards.sum() == 1)
        assert episode.success or length == HORIZON
        assert episode.observation_steps.tolist() == [*range(0, length, 5), length]
        assert episode.images["image"].shape == episode.images["wrist_image"].shape == (decisions + 1, 16, 16, 3)
        assert episode.states.shape == (decisions + 1, 8)
        assert episode.actions.shape == (length, 7)
        assert episode.rewards.shape == episode.costs.shape == episode.progress.shape == (length,)
        assert episode.decisions is not None
        assert episode.log_probs is not None
        assert episode.decisions.shape == episode.log_probs.shape == (decisions, 56)
    assert 0 < sum(episode.success for episode in episodes) < len(episodes)


def test_the_record_replays_in_a_bare_environment() -> None:
    episode = roll_out()[0][4]
    environment = SUITE.make(episode.task_id)
    environment.reset_to("eval", episode.init_state_id)
    np.testing.assert_array_equal(environment.render_observation()["images"]["image"], episode.images["image"][0])
    outcomes = [environment.advance(action) for action in episode.actions]
    assert outcomes[-1].done
    assert outcomes[-1].success == episode.success
    progress = np.array([outcome.progress for outcome in outcomes], dtype=np.float32)
    np.testing.assert_array_equal(progress, episode.progress)
    np.testing.assert_array_equal(
        environment.render_observation()["images"]["wrist_image"], episode.images["wrist_image"][-1]
    )


def test_tokens_and_log_probs_belong_to_the_decision_frames() -> None:
    episode = roll_out(frame_stride=3)[0][2]
    assert episode.decisions is not None
    indices = decision_indices(episode, 8)
    assert episode.observation_steps[indices].tolist() == list(range(0, episode.length, 8))
    batch = ObservationBatch(
        images={camera: frames[indices] for camera, frames in episode.images.items()},
        state=episode.states[indices],
        instruction=[episode.instruction] * len(indices),
    )
    log_probs, _ = FakePolicy().log_prob(batch, torch.from_numpy(episode.decisions), SAMPLED)
    assert episode.log_probs is not None
    np.testing.assert_allclose(log_probs.detach().numpy(), episode.log_probs, atol=1e-5)


def test_extra_frames_are_merged_and_no_other_is_rendered() -> None:
    FakeEnvironment.renders = 0
    plain = roll_out()[0]
    assert FakeEnvironment.renders == sum(len(episode.images["image"]) for episode in plain)
    strided = roll_out(frame_stride=3)[0]
    for one, other in zip(plain, strided, strict=True):
        length = one.length
        expected = sorted({*range(0, length, 8), *range(0, length, 3), length})
        assert other.observation_steps.tolist() == expected
        kept = np.isin(other.observation_steps, one.observation_steps)
        for camera, frames in one.images.items():
            np.testing.assert_array_equal(other.images[camera][kept], frames)
        np.testing.assert_array_equal(other.actions, one.actions)


@pytest.mark.parametrize("sampling", [SAMPLED, GREEDY])
def test_episodes_do_not_depend_on_workers(sampling: Sampling) -> None:
    reference, order = roll_out(0, sampling=sampling, frame_stride=4)
    for num_workers in (1, 2):
        episodes, other_order = roll_out(num_workers, sampling=sampling, frame_stride=4)
        assert other_order == order
        for one, other in zip(reference, episodes, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize(("num_slots", "groups"), [(1, 2), (4, 1), (5, 2), (6, 3), (30, 2)])
def test_episodes_do_not_depend_on_who_shares_their_batches(num_slots: int, groups: int) -> None:
    reference, _ = roll_out()
    episodes, _ = roll_out(num_slots=num_slots, groups=groups)
    for one, other in zip(reference, episodes, strict=True):
        assert_same(one, other)


def test_a_killed_worker_costs_nothing_but_a_mark() -> None:
    reference, _ = roll_out()
    with EnvironmentPool("fake", 6, 2, factory=FACTORY) as pool:
        killed: list[int] = []

        def kill_once(index: int, episode: Episode) -> None:
            if len(killed) < 1:
                killed.append(index)
                os.kill(pool.worker_pids[1], signal.SIGKILL)

        episodes = collect_rollouts(FakePolicy(), pool, SUITE, REQUESTS, sampling=SAMPLED, on_episode=kill_once)
    for one, other in zip(reference, episodes, strict=True):
        assert_same(one, other)
    assert 0 < sum(episode.worker_restarted for episode in episodes) <= 3


class TellingPolicy(FakePolicy):
    """Notes how it is asked, and gives features and inputs that say which environment they are of."""

    def __init__(self, execute_steps: int = 3) -> None:
        super().__init__(chunk_horizon=4, execute_steps=execute_steps)
        self.asked: list[dict[str, Any]] = []

    def act(self, observations: ObservationBatch, **options: Any) -> PolicyOutput:  # type: ignore[override]
        batch = len(observations["state"])
        self.asked.append({**options, "batch": batch})
        numbers = observations["state"][:, 0] + 20 * observations["state"][:, 1]
        return PolicyOutput(
            actions=np.repeat(numbers[:, None, None] / 100 + np.arange(4)[:, None] / 1000, 7, axis=2),
            decision=np.repeat(numbers[:, None].astype(np.int64), 28, axis=1),
            log_probs=-np.repeat(numbers[:, None], 28, axis=1),
            features=numbers[:, None] + [0.25, 0.75],
            inputs=Inputs(numbers),
        )


class Inputs:
    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = values

    def __getitem__(self, rows: slice) -> Inputs:
        return Inputs(self.values[rows])

    @staticmethod
    def concatenate(parts: Sequence[Inputs]) -> Inputs:
        return Inputs(np.concatenate([part.values for part in parts]))


def play_odd(
    policy: TellingPolicy, num_slots: int = 3, tasks: Sequence[int] = (0, 1, 2), **options: Any
) -> list[Episode]:
    requests = [RolloutRequest(EpisodeRequest(task, "train", task), seed=task) for task in tasks]
    settings: dict[str, Any] = options
    with EnvironmentPool("odd", num_slots, 0, factory="tests.sim.odd_suite:get_suite") as pool:
        return collect_rollouts(policy, pool, SUITE, requests, **settings)


def test_every_field_comes_from_its_own_source() -> None:
    for episode in play_odd(TellingPolicy(), keep_inputs=True):
        steps, decisions = np.arange(1, LENGTH + 1), np.array([0, 3, 6])
        assert (episode.success, episode.instruction) == (episode.task_id != 1, f"odd task {episode.task_id}")
        assert episode.observation_steps.tolist() == [0, 3, 6, LENGTH]
        assert episode.costs.tolist() == (10.0 + steps).tolist()
        np.testing.assert_allclose(episode.progress, 1.0 / steps, rtol=1e-6)
        assert episode.rewards.tolist() == [0.0] * (LENGTH - 1) + [float(episode.success)]
        assert episode.images["image"][:, 0, 0, 0].tolist() == [0, 3, 6, LENGTH]
        assert episode.images["wrist_image"][:, 0, 0, 0].tolist() == [100, 103, 106, 100 + LENGTH]
        assert episode.states[:, 0].tolist() == [0.5, 3.5, 6.5, LENGTH + 0.5]
        assert episode.decisions is not None and episode.log_probs is not None and episode.features is not None
        numbers = decisions + 0.5 + 20 * episode.task_id
        assert (episode.decisions == numbers[:, None] - 0.5).all()
        assert (episode.log_probs == -numbers[:, None]).all()
        assert (episode.features == numbers[:, None] + [0.25, 0.75]).all()
        assert (episode.inputs.values == numbers).all()
        step = np.arange(LENGTH)
        expected = numbers[step // 3] / 100 + step % 3 / 1000
        np.testing.assert_allclose(episode.actions, np.repeat(expected[:, None], 7, axis=1), rtol=1e-5)
    assert play_odd(TellingPolicy())[0].inputs is None


def test_how_actions_are_sampled_reaches_the_policy() -> None:
    policy = TellingPolicy()
    sampling = Sampling(1.3, token_noise=5.0, chunk_correlation=0.4)
    play_odd(policy, sampling=sampling)
    for asked in policy.asked:
        assert asked["sampling"] is sampling
        assert len(asked["generators"]) == asked["batch"]


def test_a_budget_of_frames_plays_in_fewer_slots() -> None:
    requests = [RolloutRequest(EpisodeRequest(0, "train", 0), seed=0)]
    pair = 2 * 3 * 16 * 16
    assert frame_bytes(SUITE, requests, 8, None) == 6 * pair  # 0, 8, .. 32 and 40
    assert frame_bytes(SUITE, requests, 8, 3) == 18 * pair  # 0, 3, .. 39, 8, 16, 32 and 40 (24 is there)
    tasks = [0, 2] * 15
    for budget, most in ((None, 30), (1, FEWEST_SLOTS), (12 * 15 * pair, 12)):
        policy = TellingPolicy()
        episodes = play_odd(policy, 30, tasks, groups=1, frame_budget=budget)
        assert max(asked["batch"] for asked in policy.asked) == most
        assert [episode.task_id for episode in episodes] == tasks


def test_arrays_are_not_shared_between_episodes() -> None:
    same = [RolloutRequest(EpisodeRequest(0, "train", 0), seed=0)] * 3
    first, second, third = roll_out(requests=same)[0]
    assert_same(first, second)
    first.images["image"][:] = 0
    first.actions[:] = 0
    assert_same(second, third)


def test_episodes_that_are_handed_out_are_not_kept() -> None:
    alive: list[weakref.ref[Episode]] = []
    most = 0

    def note(_: int, episode: Episode) -> None:
        nonlocal most
        alive.append(weakref.ref(episode))
        most = max(most, sum(reference() is not None for reference in alive))

    with EnvironmentPool("fake", 4, 0, factory=FACTORY) as pool:
        play_rollouts(FakePolicy(), pool, SUITE, REQUESTS, note)
    assert len(alive) == len(REQUESTS)
    assert most <= 2


def test_nothing_requested_gives_nothing() -> None:
    assert roll_out(requests=[]) == ([], [])


def test_bad_requests_are_refused_before_anything_runs() -> None:
    FakeEnvironment.renders = 0
    good = RolloutRequest(EpisodeRequest(0, "train", 0), seed=0)
    with pytest.raises(EnvironmentRequestError, match=r"initial state 20 of task 1 does not exist: .* has 20 \(eval"):
        roll_out(requests=[good, RolloutRequest(EpisodeRequest(1, "eval", 20), seed=0)])
    with pytest.raises(EnvironmentRequestError, match="unknown task 7"):
        roll_out(requests=[good, RolloutRequest(EpisodeRequest(7, "train", 0), seed=0)])
    assert FakeEnvironment.renders == 0


class BrokenPolicy(FakePolicy):
    """Returns chunks shorter than it executes, or NaN."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def act(self, *arguments: object, **options: object) -> PolicyOutput:
        output = super().act(*arguments, **options)  # type: ignore[arg-type]  # handed through
        actions = output.actions[:, :4] if self.fault == "short" else np.full_like(output.actions, np.nan)
        return dataclasses.replace(output, actions=actions)


def test_a_policy_that_breaks_its_spec_is_named() -> None:
    with EnvironmentPool("fake", 2, 0, factory=FACTORY) as pool:
        for policy, error, message in (
            (BrokenPolicy("short"), ReflexError, r"fake-policy returned actions of shape \[1, 4, 7\]"),
            (BrokenPolicy("nan"), EnvironmentRequestError, "slot 0: action is nan at step 0"),
        ):
            with pytest.raises(error, match=message):
                collect_rollouts(policy, pool, SUITE, REQUESTS, sampling=Sampling(1.0, 0.0, 0.0))
        # An aborted collection leaves the pool usable.
        assert len(collect_rollouts(FakePolicy(), pool, SUITE, REQUESTS[:3])) == 3


class SteadyPolicy:
    """Sees no picture, only the state, and always moves the same way."""

    policy_id = "steady"
    feature_map = SAME_NAMES
    spec = PolicySpec(PANDA_TRUE_STATE, uses_state=True, chunk_horizon=4, execute_steps=4, unit_steps=(0,))

    def __init__(self) -> None:
        self.seen: list[ObservationBatch] = []

    def act(self, observations: ObservationBatch, sampling: Sampling = GREEDY, generators: Any = None) -> PolicyOutput:
        self.seen.append(observations)
        count = len(observations["state"])
        return PolicyOutput(
            np.full((count, 4, 7), 0.1, np.float32), np.zeros((count, 1)), np.zeros((count, 1), np.float32)
        )


def test_a_policy_without_cameras_is_played_without_a_picture_being_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_context(*_: object) -> None:
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr("sim.core.rendering.OffscreenContext", no_context)
    monkeypatch.setattr("sim.core.rendering._CONTEXTS", {})
    policy, suite = SteadyPolicy(), get_named_suite("tabletop_state")
    connect(policy, suite.embodiment)
    requests = [RolloutRequest(EpisodeRequest(0, "eval", number), seed=number) for number in range(3)]
    with EnvironmentPool("tabletop_state", num_slots=2, num_workers=0) as pool:
        episodes = collect_rollouts(policy, pool, suite, requests)
    assert all(episode.images == {} and episode.states.shape == (13, 24) for episode in episodes)
    assert all(batch["images"] == {} for batch in policy.seen)
