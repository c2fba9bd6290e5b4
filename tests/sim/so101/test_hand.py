"""The hand of the arm, for the action filter."""

import numpy as np
import pytest

from sim.so101.embodiment import SO101
from sim.so101.environment import SO101Environment
from sim.so101.hand import SO101Hand


def test_the_hand_is_where_the_environment_has_its_grip_point() -> None:
    environment, hand = SO101Environment(0), SO101Hand()
    for index in range(5):
        environment.reset_to("train", index)
        positions = environment.robot_state().astype(np.float64)
        assert hand.position(positions) == pytest.approx(environment.world_state().grip, abs=1e-5)


def test_the_jacobian_is_the_slope_of_the_position() -> None:
    hand, generator = SO101Hand(), np.random.default_rng(0)
    for positions in generator.uniform(SO101.action.low, SO101.action.high, (20, 6)):
        slopes = [
            (hand.position(positions + step) - hand.position(positions - step)) / 2e-4 for step in 1e-4 * np.eye(6)
        ]
        assert hand.jacobian(positions) == pytest.approx(np.stack(slopes, axis=1), abs=1e-8)
