"""Smooth ways from one pose to another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.bench.filter_adversary import random_limits
from tests.vla.safety.robots import PlanarHand, one_joint, planar_arm
from vla.errors import ReflexError
from vla.safety.approach import plan_approach
from vla.safety.checks import ActionRequest
from vla.safety.decision import Decision
from vla.safety.filter import ActionFilter
from vla.safety.limits import Box


def test_an_approach_by_hand() -> None:
    # 1 rad with jerk 1: four phases of (1/2)^(1/3) s, 3.17 s in all, so four samples.
    path = plan_approach([0.0], [1.0], one_joint(), 1.0)
    phase = 0.5 ** (1 / 3)
    assert path.shape == (4, 1)
    assert path[0, 0] == pytest.approx(
        phase**3 / 6 + phase**2 * (1 - phase) / 2 + phase * (1 - phase) ** 2 / 2 - (1 - phase) ** 3 / 6
    )
    assert path[-1, 0] == 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 1 / 30, 0.01]), st.floats(0.3, 1.0))
def test_the_filter_passes_every_sample_unchanged(seed: int, period: float, speed: float) -> None:
    generator = np.random.default_rng(seed)
    limits = random_limits(generator, int(generator.integers(1, 8)))
    start, goal = generator.uniform(limits.low, limits.high), generator.uniform(limits.low, limits.high)
    goal = np.where(generator.random(goal.size) < 0.3, limits.high, goal)
    path = plan_approach(start, goal, limits, period, speed)
    action_filter = ActionFilter(limits, period)
    action_filter.start(start)
    for index, positions in enumerate([*path, path[-1], path[-1], path[-1]]):
        filtered = action_filter.filter(ActionRequest(positions, index * period, index * period))
        assert filtered.decision is Decision.PASS, filtered.reasons
    assert action_filter.state.position.tolist() == goal.tolist()
    assert action_filter.at_rest


def test_half_the_speed_takes_twice_the_time() -> None:
    full, half = (plan_approach([0.0], [9.0], one_joint(), 0.001, speed) for speed in (1.0, 0.5))
    assert len(half) == pytest.approx(2 * len(full), abs=2)


def test_who_is_there_already_need_not_move() -> None:
    assert plan_approach([1.0], [1.0], one_joint(), 1.0).shape == (0, 1)


def test_an_approach_through_a_wall_says_where() -> None:
    limits = planar_arm(keep_out=(Box((1.3, 1.3, -1.0), (1.5, 1.5, 1.0)),))
    with pytest.raises(ReflexError, match=r"bring the hand to \(1\.\d+, 1\.\d+, 0\.000\) m, .* beyond keep_out:0"):
        plan_approach([0.0, 0.0], [1.57, 0.0], limits, 0.05, hand=PlanarHand())
    assert len(plan_approach([0.0, 0.0], [0.5, 0.0], limits, 0.05, hand=PlanarHand())) > 5


@pytest.mark.parametrize(
    ("start", "goal", "speed", "message"),
    [
        ([0.0], [11.0], 1.0, "the goal of the approach has joint at 11 rad; its limits are -10 to 10"),
        ([np.nan], [1.0], 1.0, "the start of an approach must be 1 finite positions"),
        ([0.0], [1.0, 1.0], 1.0, "the goal of an approach must be 1 finite positions"),
        ([0.0], [1.0], 0.0, "speed is 0.0"),
        ([0.0], [1.0], 1.5, "speed is 1.5"),
    ],
)
def test_approaches_that_cannot_be(start: list[float], goal: list[float], speed: float, message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        plan_approach(start, goal, one_joint(), 1.0, speed)
