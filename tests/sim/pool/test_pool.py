"""The environment pool: chunk stepping, frames only where asked, and independence from the number of workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, Observation
from sim.pool import ChunkResult, EnvironmentPool, EpisodeRequest
from sim.pool import worker as pool_worker
from tests.fake_suite import HORIZON, TARGETS, FakeEnvironment
from tests.sim.odd_suite import LENGTH

FACTORY = "tests.fake_suite:get_suite"


@pytest.fixture
def local_pool() -> Iterator[EnvironmentPool]:
    with EnvironmentPool("fake", 4, 0, factory=FACTORY) as pool:
        yield pool


def requests(*task_ids: int, init_state_id: int = 3) -> list[EpisodeRequest]:
    return [EpisodeRequest(task_id, "train", init_state_id) for task_id in task_ids]


def still(num_slots: int, steps: int) -> NDArray[np.float32]:
    return np.zeros((num_slots, steps, 7), dtype=np.float32)


def towards_target(observation: Observation, task_id: int, steps: int) -> NDArray[np.float32]:
    """A chunk [1, steps, 7] that moves at full speed along each axis in turn, then stays."""
    chunk = still(1, steps)
    offset = (TARGETS[task_id] - observation["state"][:3]) / 0.05
    for step in range(steps):
        chunk[0, step, :3] = np.clip(offset, -1, 1)
        offset = offset - chunk[0, step, :3]
    return chunk


def assert_equal(left: Observation, right: Observation) -> None:
    np.testing.assert_array_equal(left["images"]["image"], right["images"]["image"])
    np.testing.assert_array_equal(left["images"]["wrist_image"], right["images"]["wrist_image"])
    np.testing.assert_array_equal(left["state"], right["state"])
    assert left["instruction"] == right["instruction"]


def test_chunk_runs_whole_and_moves_as_told(local_pool: EnvironmentPool) -> None:
    first = local_pool.reset([2], requests(0))[0]
    actions = still(1, 6)
    actions[0, :, 0] = 0.2
    result = local_pool.step_chunk([2], actions)[0]
    last = result.outcomes[-1]
    assert (result.steps, last.success, last.truncated, result.worker_restarted) == (6, False, False, False)
    np.testing.assert_allclose(result.observation["state"][0] - first["state"][0], 6 * 0.2 * 0.05, atol=1e-6)
    assert [outcome.success for outcome in result.outcomes] == [False] * 6
    assert len(result.outcomes) == 6
    assert (np.diff([outcome.progress for outcome in result.outcomes]) > 0).all()


def test_success_ends_the_chunk_early(local_pool: EnvironmentPool) -> None:
    observation = local_pool.reset([0], requests(0))[0]
    result = local_pool.step_chunk([0], towards_target(observation, 0, 20))[0]
    assert result.outcomes[-1].success
    assert not result.outcomes[-1].truncated
    assert result.done
    assert 0 < result.steps < 20
    assert [outcome.success for outcome in result.outcomes] == [False] * (result.steps - 1) + [True]
    with pytest.raises(EnvironmentRequestError, match="slot 0 has no episode"):
        local_pool.step_chunk([0], still(1, 1))


def test_an_episode_begins_where_the_actions_before_it_lead(local_pool: EnvironmentPool) -> None:
    lead = tuple(tuple(action) for action in (still(1, 5)[0] + 0.1).tolist())
    local_pool.reset([0], requests(0))
    there = local_pool.step_chunk([0], np.array([lead], dtype=np.float32))[0].observation
    request = EpisodeRequest(0, "train", 3, lead)
    assert_equal(local_pool.reset([1], [request])[0], there)
    last = local_pool.step_chunk([1], still(1, HORIZON))[0]
    assert (last.steps, last.outcomes[-1].truncated) == (HORIZON - 5, True), "it counts against the time"
    too_far = EpisodeRequest(0, "train", 3, lead * 100)
    with pytest.raises(EnvironmentRequestError, match=r"500 actions that lead into an episode .* end it after"):
        local_pool.reset([1], [too_far])


def test_horizon_ends_the_chunk_early(local_pool: EnvironmentPool) -> None:
    local_pool.reset([0], requests(0))
    first = local_pool.step_chunk([0], still(1, HORIZON - 3))[0]
    second = local_pool.step_chunk([0], still(1, 8))[0]
    assert not first.done
    assert (second.steps, second.outcomes[-1].truncated, second.outcomes[-1].success) == (3, True, False)


def test_frames_are_rendered_only_where_asked(local_pool: EnvironmentPool) -> None:
    local_pool.reset([0, 1], requests(0, 1))
    FakeEnvironment.renders = 0
    local_pool.step_chunk([0, 1], still(2, 8))
    assert FakeEnvironment.renders == 2
    FakeEnvironment.renders = 0
    results = local_pool.step_chunk([0, 1], still(2, 8), frame_stride=3)  # steps 9 .. 16 of the episode
    assert [result.extra_steps for result in results] == [[1, 4, 7]] * 2  # 9, 12, 15
    assert FakeEnvironment.renders == 2 * 4
    # The last step of a chunk is never rendered twice: step 24 is the next decision.
    assert local_pool.step_chunk([0, 1], still(2, 8), frame_stride=4)[0].extra_steps == [4]


def test_extra_frames_show_their_own_moment(local_pool: EnvironmentPool) -> None:
    local_pool.reset([0, 1], requests(0, 0))
    actions = still(2, 4)
    actions[:, :, 1] = -0.5
    whole = local_pool.step_chunk([0], actions[:1], frame_stride=1)[0]
    assert whole.extra_steps == [1, 2, 3]
    for step in range(3):
        part = local_pool.step_chunk([1], actions[1:, step : step + 1])[0]
        assert_equal(part.observation, whole.extra_observations[step])


def test_observations_are_fresh_arrays(local_pool: EnvironmentPool) -> None:
    first = local_pool.reset([0], requests(0))[0]
    image = first["images"]["image"].copy()
    first["images"]["image"][:] = 0
    again = local_pool.reset([0], requests(0))[0]
    np.testing.assert_array_equal(again["images"]["image"], image)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_result_says_what_each_step_did_and_what_was_seen_then(num_workers: int) -> None:
    """Pictures and states that the environment draws into one buffer are those of their own moment."""
    with EnvironmentPool("odd", 2, num_workers, factory="tests.sim.odd_suite:get_suite") as pool:
        first = pool.reset([0, 1], requests(0, 1))
        results = pool.step_chunk([0, 1], still(2, LENGTH + 2), frame_stride=2)
    for slot, result in enumerate(results):
        steps = range(1, LENGTH + 1)
        assert [outcome.cost for outcome in result.outcomes] == [10.0 + step for step in steps]
        assert [outcome.progress for outcome in result.outcomes] == [1.0 / step for step in steps]
        assert [outcome.success for outcome in result.outcomes] == [False] * (LENGTH - 1) + [slot == 0]
        assert [outcome.truncated for outcome in result.outcomes] == [False] * (LENGTH - 1) + [slot == 1]
        assert (result.steps, result.done, result.extra_steps) == (LENGTH, True, [2, 4, 6])
        seen = [first[slot], *result.extra_observations, result.observation]
        assert [observation["images"]["image"][0, 0, 0] for observation in seen] == [0, 2, 4, 6, LENGTH]
        assert [observation["images"]["wrist_image"][0, 0, 0] for observation in seen] == [
            100,
            102,
            104,
            106,
            100 + LENGTH,
        ]
        assert [observation["state"][0] for observation in seen] == [0.5, 2.5, 4.5, 6.5, LENGTH + 0.5]
        assert {observation["instruction"] for observation in seen} == {f"odd task {slot}"}


def play(num_workers: int) -> list[ChunkResult]:
    """Random chunks in 5 slots, with resets to other tasks on the way."""
    generator = np.random.default_rng(0)
    results = []
    with EnvironmentPool("fake", 5, num_workers, 24, factory=FACTORY, max_environments=1) as pool:
        for round_number in range(3):
            pool.reset(range(5), requests(*[(slot + round_number) % 3 for slot in range(5)]))
            for _ in range(2):
                actions = generator.uniform(-0.3, 0.3, size=(5, 4, 7)).astype(np.float32)
                results += pool.step_chunk(range(5), actions, frame_stride=3)
    return results


def test_results_do_not_depend_on_the_number_of_workers() -> None:
    local, one, two = play(0), play(1), play(2)
    assert local[0].observation["images"]["image"].shape == (24, 24, 3)
    for left, middle, right in zip(local, one, two, strict=True):
        for other in (middle, right):
            assert (left.steps, left.extra_steps) == (other.steps, other.extra_steps)
            assert_equal(left.observation, other.observation)
            assert left.outcomes == other.outcomes
            for a, b in zip(left.extra_observations, other.extra_observations, strict=True):
                assert_equal(a, b)


def test_halves_of_a_call_interleave() -> None:
    with EnvironmentPool("fake", 2, 1, factory=FACTORY) as pool:
        pool.begin_reset([0], requests(0))
        pool.begin_reset([1], requests(1))
        assert "green" in pool.finish([1])[0]["instruction"]
        pool.begin_step_chunk([1], still(1, 2))
        assert "red" in pool.finish([0])[0]["instruction"]
        with pytest.raises(EnvironmentRequestError, match="slot 1 has no episode that waits"):
            pool.begin_step_chunk([1], still(1, 2))
        pool.begin_reset([1], requests(2))  # the chunk on its way is dropped, whenever its answer comes
        assert "blue" in pool.finish([1])[0]["instruction"]
        with pytest.raises(EnvironmentRequestError, match="nothing was asked of slot 0"):
            pool.finish([0])


def test_environments_are_kept_and_bounded() -> None:
    FakeEnvironment.built = 0
    with EnvironmentPool("fake", 2, 0, factory=FACTORY) as pool:
        for _ in range(3):
            pool.reset([0, 1], requests(0, 1))
            pool.reset([0, 1], requests(1, 0))  # each finds an environment of its task
    assert FakeEnvironment.built <= 4
    FakeEnvironment.built = 0
    with EnvironmentPool("fake", 1, 0, factory=FACTORY, max_environments=2) as pool:
        for task_id in (0, 1, 0, 1):
            pool.reset([0], requests(task_id))
        assert FakeEnvironment.built == 2
        for task_id in (2, 1, 0):  # 2 takes the place of 0, which waited longest; then 0 that of 2
            pool.reset([0], requests(task_id))
        assert FakeEnvironment.built == 4


def test_environments_that_wait_are_closed_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeEnvironment.built = 0
    shares = iter([0.5, 0.1, 0.1, 0.3])
    monkeypatch.setattr(pool_worker, "available_share", lambda: next(shares))
    with EnvironmentPool("fake", 1, 0, factory=FACTORY) as pool:
        for task_id in (0, 1, 2):  # 1 finds enough memory beside 0; 2 neither beside 0 nor beside 1
            pool.reset([0], requests(task_id))
        assert next(shares) == 0.3
        monkeypatch.setattr(pool_worker, "available_share", lambda: 1.0)
        pool.reset([0], requests(0))
        pool.reset([0], requests(2))
        assert FakeEnvironment.built == 4  # 0 anew, and 2 was kept


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_action_is_refused_before_any_stepping(local_pool: EnvironmentPool, bad: float) -> None:
    before = local_pool.reset([1, 3], requests(0, 1))
    actions = still(2, 4) + 0.1
    actions[1, 2, 5] = bad
    with pytest.raises(EnvironmentRequestError, match=r"slot 3: action is .* at step 2, component 5"):
        local_pool.step_chunk([1, 3], actions)
    after = local_pool.step_chunk([1, 3], still(2, 1))
    assert_equal(after[0].observation, before[0])  # slot 1 had not moved, and both episodes still run


def test_an_action_of_another_robot_is_refused_by_the_environment(local_pool: EnvironmentPool) -> None:
    local_pool.reset([0, 1], requests(0, 1))
    with pytest.raises(EnvironmentRequestError, match=r"slot 0, task 0: an action needs 7"):
        local_pool.step_chunk([0, 1], np.zeros((2, 4, 6), np.float32))


@pytest.mark.parametrize("shape", [(1, 4, 7), (2, 7), (2, 0, 7)])
def test_misshapen_actions_are_refused(local_pool: EnvironmentPool, shape: tuple[int, ...]) -> None:
    local_pool.reset([0, 1], requests(0, 1))
    with pytest.raises(EnvironmentRequestError, match="must have shape"):
        local_pool.step_chunk([0, 1], np.zeros(shape, dtype=np.float32))


def test_bad_calls_are_refused(local_pool: EnvironmentPool) -> None:
    with pytest.raises(EnvironmentRequestError, match="slots must be distinct"):
        local_pool.reset([0, 0], requests(0, 0))
    with pytest.raises(EnvironmentRequestError, match=r"within 0 \.\. 3"):
        local_pool.reset([4], requests(0))
    with pytest.raises(EnvironmentRequestError, match="2 slots but 1"):
        local_pool.reset([0, 1], requests(0))
    with pytest.raises(EnvironmentRequestError, match="slot 0 has no episode"):
        local_pool.step_chunk([0], still(1, 1))
    local_pool.reset([0], requests(0))
    with pytest.raises(EnvironmentRequestError, match="frame_stride"):
        local_pool.step_chunk([0], still(1, 1), frame_stride=0)
    with pytest.raises(EnvironmentRequestError, match="num_slots >= 1"):
        EnvironmentPool("fake", 0, 0, factory=FACTORY)


def test_a_closed_pool_says_so(local_pool: EnvironmentPool) -> None:
    local_pool.close()
    local_pool.close()
    with pytest.raises(EnvironmentRequestError, match="closed"):
        local_pool.reset([0], requests(0))
