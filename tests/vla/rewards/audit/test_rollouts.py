"""Rollouts to audit a reward on, made on the real tabletop."""

from collections.abc import Iterator

import numpy as np
import pytest

from sim.tabletop.suite import TabletopSuite
from vla.rewards.audit.rollouts import CONTROLS, SCRIPTED, RolloutMaker, from_policy, make_rollouts


@pytest.fixture
def picking_red() -> Iterator[RolloutMaker]:
    maker = RolloutMaker(TabletopSuite(32), 0, "train", 8, seed=3)
    yield maker
    maker.close()


def test_every_kind_is_what_it_says(picking_red: RolloutMaker) -> None:
    rollouts = {kind: make_rollouts(picking_red, kind, 2) for kind in SCRIPTED}
    assert all(len(made) == 2 for made in rollouts.values())
    for kind, made in rollouts.items():
        for rollout in made:
            episode = rollout.episode
            assert rollout.kind == kind
            assert episode.success == (kind == "success")
            assert len(episode.images["image"]) == len(episode.states) == len(episode.observation_steps)
            assert episode.observation_steps[0] == 0
            assert episode.observation_steps[-1] == episode.length
            assert (np.diff(episode.observation_steps) <= 8).all()
    assert {rollout.progress for rollout in rollouts["success"]} == {1.0}
    assert all(0.0 <= rollout.progress < 1.0 for kind in SCRIPTED[1:] for rollout in rollouts[kind])
    for kind in ("stalled", "wrong", "hopeless", "frozen"):
        assert all(rollout.episode.length == 48 for rollout in rollouts[kind])
    assert all(np.ptp(rollout.episode.states[:, :3], axis=0).max() < 0.01 for rollout in rollouts["frozen"])
    assert len({rollout.episode.init_state_id for made in rollouts.values() for rollout in made}) > 10


def test_a_stalled_expert_stands_still_from_some_point_on(picking_red: RolloutMaker) -> None:
    for rollout in make_rollouts(picking_red, "stalled", 3):
        actions = rollout.episode.actions[:, :6]
        moving = np.flatnonzero(np.abs(actions).max(axis=1) > 0)
        assert 0 < len(moving) < 48
        assert not actions[moving[-1] + 1 :].any()


def test_the_wrong_task_is_done_well(picking_red: RolloutMaker) -> None:
    """The blue cube is lifted, or the red one put on it would have lifted the red one too, and been dropped."""
    (rollout,) = make_rollouts(picking_red, "wrong", 1)
    assert rollout.progress < 0.5
    assert np.ptp(rollout.episode.states[:, 2]) > 0.05


def test_controls_hold_a_success_s_frames_in_another_order() -> None:
    suite = TabletopSuite(32)

    def first(kind: str) -> np.ndarray:  # type: ignore[type-arg]
        maker = RolloutMaker(suite, 5, "train", 8, seed=1)
        try:
            (rollout,) = make_rollouts(maker, kind, 1)  # type: ignore[arg-type]
        finally:
            maker.close()
        return rollout.episode.images["image"]

    forward = first("success")
    assert np.array_equal(first("reversed"), forward[::-1])
    shuffled = first("shuffled")
    assert not np.array_equal(shuffled, forward)
    assert sorted(frame.tobytes() for frame in shuffled) == sorted(frame.tobytes() for frame in forward)
    assert CONTROLS == ("reversed", "shuffled")


def test_the_same_seed_makes_the_same_rollouts(picking_red: RolloutMaker) -> None:
    again = RolloutMaker(TabletopSuite(32), 0, "train", 8, seed=3)
    other = RolloutMaker(TabletopSuite(32), 0, "train", 8, seed=4)
    actions = [make_rollouts(maker, "stalled", 1)[0].episode.actions for maker in (picking_red, again, other)]
    assert np.array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])
    again.close()
    other.close()


def test_tasks_without_a_neighbour_have_no_wrong_rollouts() -> None:
    maker = RolloutMaker(TabletopSuite(32), 7, "train", 8, seed=0)
    assert make_rollouts(maker, "wrong", 2) == []
    maker.close()


def test_a_policy_s_success_has_progress_one(picking_red: RolloutMaker) -> None:
    (success,) = make_rollouts(picking_red, "success", 1)
    (stalled,) = make_rollouts(picking_red, "stalled", 1)
    success.episode.progress[-1] = 0.7
    taken = from_policy([success.episode, stalled.episode])
    assert [rollout.kind for rollout in taken] == ["policy", "policy"]
    assert taken[0].progress == 1.0
    assert taken[1].progress == stalled.progress
