"""The closed form of one joint, by hand: period 1, greatest change of the acceleration 1 in a period."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from vla.safety.stopping import (
    admissible_bounds,
    follow_positions,
    landing_acceleration,
    ramp_gain,
    stopping_acceleration,
    stopping_path,
)

LIMITS = np.array([-10.0, 10.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0])[:, None]


def joint(value: float) -> np.ndarray:
    return np.array([value])


def follow(
    wanted: float, position: float, velocity: float, acceleration: float, followed: bool = True, asked: float = 0.0
) -> tuple[float, int]:
    sent, codes = follow_positions(
        joint(wanted),
        joint(asked),
        np.array([followed]),
        joint(position),
        joint(velocity),
        joint(acceleration),
        LIMITS,
        1.0,
    )
    return float(sent[0]), int(codes[0])


def test_an_acceleration_that_is_let_go_of_adds_the_sum_of_its_steps() -> None:
    assert ramp_gain(-3.0, 1.0, 1.0) == -3.0 - 2.0 - 1.0
    assert ramp_gain(2.5, 1.0, 1.0) == 2.5 + 1.5 + 0.5
    assert ramp_gain(0.0, 1.0, 1.0) == 0.0


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-3, 1.0))
def test_landing_is_the_inverse_of_the_ramp(velocity: float, step: float, period: float) -> None:
    acceleration = landing_acceleration(velocity, step, period)
    assert ramp_gain(acceleration, step, period) == pytest.approx(-velocity, rel=1e-9, abs=1e-12)


def test_the_fastest_stop_from_velocity_3_by_hand() -> None:
    # -1 (as fast as the jerk lets it), -1.5 (so that -0.5 remains to land), -0.5, and it rests.
    velocity, acceleration, seen = 3.0, 0.0, []
    for _ in range(4):
        acceleration = stopping_acceleration(velocity, acceleration, 2.0, 1.0, 1.0)
        velocity += acceleration
        seen.append((acceleration, velocity))
    assert seen == [(-1.0, 2.0), (-1.5, 0.5), (-0.5, 0.0), (0.0, 0.0)]
    path = stopping_path(joint(0.0), joint(3.0), joint(0.0), LIMITS, 1.0, 20)
    assert path[:, 0].tolist() == [0.0, 2.0, 2.5, 2.5, 2.5]


def test_the_jerk_binds_from_rest() -> None:
    assert follow(5.0, 0.0, 0.0, 0.0) == (1.0, 8)
    assert follow(-5.0, 0.0, 0.0, 0.0) == (-1.0, 8)
    assert follow(0.75, 0.0, 0.0, 0.0) == (0.75, 0)


def test_the_acceleration_binds() -> None:
    assert follow(9.0, 0.0, -1.0, 1.5) == (0.0 + (-1.0 + 2.0), 4)


def test_the_velocity_binds_before_it_is_reached() -> None:
    # At 2 with acceleration 0, one more step of 1 gives 3, which lets go at once: allowed. At 2.5 it is not.
    assert follow(9.0, 0.0, 2.0, 0.0) == (3.0, 8)
    assert follow(9.0, 0.0, 2.5, 0.0) == (3.0, 2)


def test_the_position_binds_so_that_the_stop_ends_at_the_limit() -> None:
    # From 9 an acceleration of 2/3 is the most: then -1/3 and -1/3 end it at 9 + 2/3 + 1/3.
    sent, code = follow(10.0, 9.0, 0.0, 0.0)
    assert sent == pytest.approx(9.0 + 2.0 / 3.0, abs=1e-12)
    assert code == 1
    path = stopping_path(joint(sent), joint(sent - 9.0), joint(sent - 9.0), LIMITS, 1.0, 20)
    assert path.max() == pytest.approx(10.0, abs=1e-11)


def test_far_beyond_the_range_is_named_though_the_jerk_binds_first() -> None:
    assert follow(1e300, 0.0, 0.0, 0.0) == (1.0, 1 | 8)


def test_the_bounds_are_where_infinite_requests_end() -> None:
    low, high = admissible_bounds(joint(9.0), joint(0.0), joint(0.0), LIMITS, 1.0)
    assert low[0] == 8.0
    assert high[0] == follow(1e9, 9.0, 0.0, 0.0)[0]


def largest_viable(position: float, velocity: float, acceleration: float, horizon: int = 24) -> float:
    """The highest next position after which any motion at all stays within the limits and rests: a linear program."""
    order = np.arange(horizon)
    speed = (order[:, None] >= order[None, :]).astype(float)
    place = speed @ speed
    rows = [np.eye(horizon), -np.eye(horizon), speed, -speed, place, -place]
    difference = np.eye(horizon) - np.eye(horizon, k=-1)
    first = np.zeros(horizon)
    first[0] = acceleration
    rows += [difference, -difference]
    right = [
        np.full(horizon, 2.0), np.full(horizon, 2.0), np.full(horizon, 3.0 - velocity),
        np.full(horizon, 3.0 + velocity), 10.0 - position - velocity * (order + 1),
        10.0 + position + velocity * (order + 1), np.ones(horizon) + first, np.ones(horizon) - first,
    ]  # fmt: skip
    equal = np.stack([speed[-1], np.eye(horizon)[-1]])
    found = linprog(
        -np.eye(horizon)[0], np.vstack(rows), np.concatenate(right), equal, [-velocity, 0.0], bounds=(None, None)
    )
    assert found.success, "a state from which the filter says it can stop cannot"
    return position + velocity + float(found.x[0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_admissible_positions_are_viable_and_all_but_the_last_of_them_are_admissible(seed: int) -> None:
    generator = np.random.default_rng(seed)
    position, velocity, acceleration = joint(generator.uniform(-10.0, 10.0)), joint(0.0), joint(0.0)
    for _ in range(int(generator.integers(1, 12))):
        low, high = admissible_bounds(position, velocity, acceleration, LIMITS, 1.0)
        following = low + generator.choice([0.0, 0.5, 1.0]) * (high - low)
        before, velocity = velocity, following - position
        acceleration, position = velocity - before, following
    (highest,) = admissible_bounds(position, velocity, acceleration, LIMITS, 1.0)[1]
    best = largest_viable(float(position[0]), float(velocity[0]), float(acceleration[0]))
    # What is given up is a turn at the limit without a stop: less than what the jerk moves in one period.
    assert best - 1.0 <= highest <= best + 1e-7


@settings(max_examples=100, deadline=None)
@given(
    st.floats(-8.0, 8.0) | st.floats(-1e9, 1e9),
    st.floats(0.5, 3.0),
    st.floats(0.05, 3.0),
    st.floats(0.02, 3.0),
    st.sampled_from([1.0, 0.1]),
)
def test_a_constant_wish_is_reached_without_overshoot_and_kept(
    goal: float, velocity: float, acceleration: float, jerk: float, period: float
) -> None:
    limits = np.array([-10.0, 10.0, velocity, acceleration, jerk * period, 1e-11, 1e-9, 1e-9, 1e-9])[:, None]
    position, v, a = joint(0.0), joint(0.0), joint(0.0)
    asked, followed, seen = joint(0.0), np.array([True]), []
    longest = 20.0 + 2.0 * (10.0 / velocity + velocity / acceleration + acceleration / jerk + 10.0 / jerk ** (1 / 3))
    for _ in range(int(longest / period)):
        sent, _ = follow_positions(joint(goal), asked, followed, position, v, a, limits, period)
        seen.append(float(sent[0]))
        following = (sent - position) / period
        a, v, position = (following - v) / period, following, sent
        asked, followed = joint(goal), sent == goal
    reachable = min(max(goal, -10.0), 10.0)
    assert seen[-1] == (goal if abs(goal) <= 8.0 else pytest.approx(reachable, abs=1e-9))
    # The first step is the nearest admissible one, so it may go a step too fast.
    most = min(abs(goal) + 2.0 * jerk * period**3, 10.0)
    assert np.abs(seen).max() <= most + 1e-9
