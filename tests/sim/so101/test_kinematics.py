"""Inverse kinematics: the formula by hand, and the arm's own poses."""

import numpy as np
import pytest

from sim.so101.embodiment import JOINT_LIMITS
from sim.so101.environment import REST
from sim.so101.kinematics import ARM_JOINTS, Kinematics, damped_least_squares, downward
from sim.so101.scene import Scene, compile_scene
from sim.so101.tasks import NUM_INIT_STATES, initial_layout


@pytest.fixture(scope="module")
def arm() -> Kinematics:
    return Kinematics(compile_scene(Scene("red")))


def test_one_joint_by_hand() -> None:
    """J e / (J^2 + damping^2): 2 * 1 / (4 + 1)."""
    assert damped_least_squares(np.array([[2.0]]), np.array([1.0]), 1.0) == pytest.approx([0.4])
    assert damped_least_squares(np.array([[2.0]]), np.array([1.0]), 0.0) == pytest.approx([0.5])


def test_two_joints_share_by_their_leverage() -> None:
    """J J^T + damping^2 = 25 + 0: the step is J^T / 25 times the error."""
    assert damped_least_squares(np.array([[3.0, 4.0]]), np.array([5.0]), 0.0) == pytest.approx([0.6, 0.8])


def test_damping_bounds_the_step_near_a_singularity() -> None:
    jacobian = np.diag([1.0, 1e-6])
    assert damped_least_squares(jacobian, np.ones(2), 0.0)[1] == pytest.approx(1e6)
    # e s / (s^2 + d^2) is at most e / (2 d).
    assert np.abs(damped_least_squares(jacobian, np.ones(2), 0.1)).max() <= 1.0 / (2 * 0.1)


def test_downward_turns_about_the_vertical() -> None:
    assert downward(0.0) == pytest.approx(np.eye(3))
    assert downward(np.pi / 2)[:, 0] == pytest.approx([0, 1, 0])
    assert downward(0.3)[:, 2].tolist() == [0, 0, 1]


def test_every_block_is_reached_pointing_down(arm: Kinematics) -> None:
    for index in range(NUM_INIT_STATES):
        x, y, yaw = initial_layout(1, "eval", index).block
        place = np.array([x, y, 0.018])
        angles = arm.solve(REST, place, np.pi / 2 + yaw, iterations=40)
        found, rotation = arm.pose(angles)
        assert np.linalg.norm(found - place) < 5e-4
        assert rotation[2, 2] > 0.999, "tilted by less than 2.6 degrees"
        assert rotation[:, 0] == pytest.approx(downward(np.pi / 2 + yaw)[:, 0], abs=0.02)


def test_a_pose_is_found_again(arm: Kinematics) -> None:
    place, _ = arm.pose(REST)
    angles = arm.solve(REST + 0.2, place, np.pi / 2, iterations=60)
    assert np.linalg.norm(arm.pose(angles)[0] - place) < 1e-3


@pytest.mark.parametrize("place", [(0.8, 0.0, 0.1), (-0.4, 0.3, 0.2), (0.2, 0.0, -0.3), (0.04, 0.0, 0.02)])
def test_out_of_reach_the_angles_stay_within_their_limits(arm: Kinematics, place: tuple[float, ...]) -> None:
    angles = arm.solve(REST, np.array(place), 0.0, iterations=60)
    assert np.isfinite(angles).all() and angles.shape == (ARM_JOINTS,)
    assert (angles >= JOINT_LIMITS[:5, 0]).all() and (angles <= JOINT_LIMITS[:5, 1]).all()


def test_the_start_is_left_alone(arm: Kinematics) -> None:
    start = REST.copy()
    arm.solve(start, np.array([0.2, 0.05, 0.05]), 1.5)
    assert start.tolist() == REST.tolist()
