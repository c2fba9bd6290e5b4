"""The controller's mathematics, on numbers worked by hand and against numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.core.operational_space import (
    cholesky_solve,
    matrix_to_rotation_vector,
    operational_space_torques,
    orientation_error,
    rotation_vector_to_matrix,
)


def test_cholesky_solve_by_hand() -> None:
    solution = cholesky_solve(np.array([[4.0, 2.0], [2.0, 3.0]]), np.array([[8.0], [7.0]]))
    assert solution[:, 0] == pytest.approx([1.25, 1.5])


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_cholesky_solve_agrees_with_numpy(seed: int) -> None:
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(6, 6))
    matrix = factor @ factor.T + np.eye(6)
    right = generator.normal(size=(6, 3))
    np.testing.assert_allclose(cholesky_solve(matrix, right), np.linalg.solve(matrix, right), atol=1e-9)


def test_quarter_turn_about_z() -> None:
    matrix = rotation_vector_to_matrix(np.array([0.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(matrix, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)


@given(st.lists(st.floats(-1.8, 1.8), min_size=3, max_size=3))
@settings(max_examples=60, deadline=None)
def test_rotation_vector_round_trip(values: list[float]) -> None:
    vector = np.array(values)
    if np.linalg.norm(vector) >= np.pi - 1e-3:
        return
    np.testing.assert_allclose(matrix_to_rotation_vector(rotation_vector_to_matrix(vector)), vector, atol=1e-6)


@pytest.mark.parametrize("axis", [[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, -0.6, 0.8]])
def test_half_turn_keeps_its_axis(axis: list[float]) -> None:
    vector = matrix_to_rotation_vector(rotation_vector_to_matrix(np.pi * np.array(axis)))
    assert np.linalg.norm(vector) == pytest.approx(np.pi, abs=1e-6)
    assert abs(float(vector @ np.array(axis))) == pytest.approx(np.pi, abs=1e-4)


@pytest.mark.parametrize(
    "axis", [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.6, -0.8], [-0.6, 0.0, 0.8]]
)
@pytest.mark.parametrize("short_of_it", [5e-4, 1e-3, 2e-3])
def test_near_a_half_turn_the_axis_keeps_its_sign(axis: list[float], short_of_it: float) -> None:
    """The last millirad is read off the symmetric part of the matrix, which knows the axis but not its sign."""
    vector = (np.pi - short_of_it) * np.array(axis)
    np.testing.assert_allclose(matrix_to_rotation_vector(rotation_vector_to_matrix(vector)), vector, atol=1e-6)


def test_orientation_error_is_the_sine_of_the_angle() -> None:
    error = orientation_error(rotation_vector_to_matrix(np.array([0.0, 0.0, 0.3])), np.eye(3))
    np.testing.assert_allclose(error, [0.0, 0.0, np.sin(0.3)], atol=1e-12)
    axis = np.array([0.48, -0.6, 0.64])
    tilted = rotation_vector_to_matrix(np.array([0.4, 0.1, -0.7]))
    error = orientation_error(rotation_vector_to_matrix(0.3 * axis) @ tilted, tilted)
    np.testing.assert_allclose(error, np.sin(0.3) * axis, atol=1e-12)


def _torques(
    goal: np.ndarray,
    limits: float = 1e9,
    rest: np.ndarray | None = None,
    velocities: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    goal_rotation: np.ndarray | None = None,
) -> np.ndarray:
    """Six joints that move the end effector along its own six axes, each of unit inertia, plus one free joint."""
    jacobian = np.hstack([np.eye(6), np.zeros((6, 1))])
    torques = np.zeros(7)
    operational_space_torques(
        np.zeros(7),
        np.zeros(7) if velocities is None else velocities,
        np.eye(7),
        jacobian[:3].copy(),
        jacobian[3:].copy(),
        np.zeros(7) if bias is None else bias,
        np.zeros(3),
        np.eye(3),
        goal,
        np.eye(3) if goal_rotation is None else goal_rotation,
        np.zeros(7) if rest is None else rest,
        100.0,
        10.0,
        np.full(7, limits),
        torques,
    )
    return torques


def test_unit_inertia_gives_stiffness_times_error() -> None:
    np.testing.assert_allclose(_torques(np.array([0.1, 0.0, -0.2])), [10.0, 0.0, -20.0, 0, 0, 0, 0], atol=1e-6)


def test_torques_are_limited() -> None:
    assert _torques(np.array([5.0, 0.0, -5.0]), limits=87.0).tolist() == [87.0, 0, -87.0, 0, 0, 0, 0]


def test_null_space_spring_moves_only_the_free_joint() -> None:
    torques = _torques(np.zeros(3), rest=np.ones(7))
    np.testing.assert_allclose(torques, [0, 0, 0, 0, 0, 0, 10.0], atol=1e-6)


def test_a_moving_arm_is_damped_critically() -> None:
    """2 sqrt(100) against the end effector's velocity; 2 sqrt(10) against the free joint's, in the null space."""
    velocities = np.array([0.1, 0.0, 0.0, 0.0, -0.2, 0.0, 0.3])
    expected = [-2.0, 0.0, 0.0, 0.0, 4.0, 0.0, -0.6 * np.sqrt(10.0)]
    np.testing.assert_allclose(_torques(np.zeros(3), velocities=velocities), expected, atol=1e-6)


def test_gravity_is_carried_and_a_turned_goal_turns() -> None:
    bias = np.arange(1.0, 8.0)
    np.testing.assert_allclose(_torques(np.zeros(3), bias=bias), bias, atol=1e-9)
    turned = rotation_vector_to_matrix(np.array([0.0, 0.2, 0.0]))
    expected = [0, 0, 0, 0, 100.0 * np.sin(0.2), 0, 0]
    np.testing.assert_allclose(_torques(np.zeros(3), goal_rotation=turned), expected, atol=1e-6)
