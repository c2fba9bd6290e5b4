"""The command space of a Franka: poses there and back, and what changes of them come to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from real_robot.arms.franka_hand import DOWN, WIDTH, HandDeltas, command_of, rotation_of, state_of
from sim.core.operational_space import rotation_vector_to_matrix
from sim.tabletop.environment import TabletopEnvironment

turns = st.tuples(*[st.floats(-1.5, 1.5)] * 3).map(np.array)
places = st.tuples(*[st.floats(-0.5, 0.5)] * 3).map(np.array)


@given(places, turns, st.floats(0.0, WIDTH))
def test_a_pose_is_the_command_that_asks_for_it(place: np.ndarray, turn: np.ndarray, width: float) -> None:
    rotation = rotation_vector_to_matrix(turn) @ DOWN
    command = command_of(place, rotation, width)
    assert command[:3] == pytest.approx(place)
    assert rotation_of(command) == pytest.approx(rotation, abs=1e-9)
    assert command[6] == pytest.approx(1.0 - 2.0 * width / WIDTH)
    assert -1.0 - 1e-12 <= command[6] <= 1.0


def test_a_state_is_what_the_suite_says_of_the_same_pose() -> None:
    environment = TabletopEnvironment(0)
    for init_state in range(10):
        environment.reset_to("eval", init_state)
        told = environment.robot_state()
        ours = state_of(told[:3].astype(float), environment.gripper_rotation(), float(told[6] - told[7]))
        assert ours == pytest.approx(told, abs=1e-6)


def test_the_hand_moves_by_the_share_of_a_change_that_is_written_here() -> None:
    environment = TabletopEnvironment(0)
    environment.reset_to("eval", 0)
    places = [environment.robot_state()[1]]
    for _ in range(8):
        environment.advance(np.array([0.0, 0.6, 0.0, 0.0, 0.0, 0.0, -1.0], np.float32))
        places.append(environment.robot_state()[1])
    steady = np.diff(places)[4:]
    assert steady / (0.05 * 0.6) == pytest.approx(HandDeltas().response, abs=0.02)


@given(places, turns)
def test_no_change_asks_for_the_pose_itself(place: np.ndarray, turn: np.ndarray) -> None:
    rotation = rotation_vector_to_matrix(turn) @ DOWN
    commands = HandDeltas().positions(np.zeros((3, 7)), state_of(place, rotation, 0.05))
    assert commands[:, :3] == pytest.approx(np.tile(place, (3, 1)), abs=1e-6)
    for command in commands:
        assert rotation_of(command) == pytest.approx(rotation, abs=1e-5)  # the state is float32


def test_changes_add_up_and_turn_about_the_base() -> None:
    deltas = HandDeltas(response=0.5)
    changes = np.array([[1.0, 0.0, -1.0, 0.0, 0.0, 0.4, -1.0], [1.0, 0.5, 0.0, 0.0, 0.0, 0.4, 1.0]])
    commands = deltas.positions(changes, state_of(np.zeros(3), DOWN, WIDTH))
    assert commands[:, :3] == pytest.approx(np.array([[0.025, 0.0, -0.025], [0.05, 0.0125, -0.025]]))
    assert commands[:, 5] == pytest.approx(np.array([0.1, 0.2]), abs=1e-6)
    assert commands[:, 6].tolist() == [-1.0, 1.0]
    turned = rotation_of(commands[1]) @ np.array([1.0, 0.0, 0.0])
    assert turned == pytest.approx([np.cos(0.2), np.sin(0.2), 0.0], abs=1e-6)
