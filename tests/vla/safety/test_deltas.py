"""Robots that are told changes."""

import math

import numpy as np
import pytest

from sim.embodiments import PANDA_EEF
from vla.safety.checks import ActionRequest
from vla.safety.decision import Decision
from vla.safety.deltas import PANDA_COMMANDS, DeltaFilter, delta_limits
from vla.safety.filter import ActionFilter

LOW, HIGH = (-0.5, -0.5, 0.0, -9.0, -9.0, -9.0, -1.0), (0.5, 0.5, 0.5, 9.0, 9.0, 9.0, 1.0)
LIMITS = delta_limits(PANDA_EEF, PANDA_COMMANDS, LOW, HIGH, ramp=0.1)
START = [0.0, 0.0, 0.2, 0.0, 0.0, 0.0, -1.0]


def started() -> DeltaFilter:
    delta_filter = DeltaFilter(ActionFilter(LIMITS, 1 / 20), PANDA_COMMANDS)
    delta_filter.start(START)
    return delta_filter


def ask(delta_filter: DeltaFilter, action: object, step: int, measured: object = None):  # type: ignore[no-untyped-def]
    return delta_filter.filter(ActionRequest(action, step / 20, step / 20, measured=measured))


def test_limits_by_hand() -> None:
    # Full scale is 5 cm at 20 Hz: 1 m/s, reached in 0.1 s.
    assert (LIMITS.velocity[0], LIMITS.acceleration[0], LIMITS.jerk[0]) == pytest.approx((1.0, 10.0, 100.0))
    assert LIMITS.velocity[6] == pytest.approx(40.0)


def test_a_change_within_the_limits_passes_bit_for_bit_and_the_gripper_may_snap() -> None:
    delta_filter = started()
    action = np.array([0.1, -0.1, 0.05, 0.01, 0.0, 0.0, 1.0])
    for step, closed in enumerate([1.0, -1.0, 1.0, -1.0]):
        action[6] = closed
        filtered = ask(delta_filter, action, step)
        assert filtered.decision is Decision.PASS, filtered.reasons
        assert filtered.action.tobytes() == action.tobytes()


def test_a_sudden_full_change_is_ramped() -> None:
    delta_filter, action = started(), np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
    sent = [float(ask(delta_filter, action, step).action[0]) for step in range(6)]
    # The jerk allows 100 * 0.05^3 m in the first step: a quarter of full scale.
    assert sent[0] == pytest.approx(0.25)
    assert sent == sorted(sent) and sent[-1] == pytest.approx(1.0)


def test_a_bad_change_is_held_as_no_change() -> None:
    delta_filter = started()
    for action, reason in ((np.full(7, np.nan), "not_finite:x"), (np.zeros(6), "shape:[6]"), ("go", "shape:[]")):
        filtered = ask(delta_filter, action, 0)
        assert filtered.decision is Decision.HOLD and reason in filtered.reasons
        assert filtered.action.tolist() == [0.0] * 6 + [-1.0]


def test_changes_count_from_where_the_hand_was_measured() -> None:
    delta_filter, down = started(), np.array([0.0, 0.0, -0.3, 0.0, 0.0, 0.0, -1.0])
    measured = np.array(START)
    for step in range(40):
        filtered = ask(delta_filter, down, step, measured)
        measured = measured + PANDA_COMMANDS.action(filtered.action, np.zeros(7)) * 0.0  # the hand is stuck
    assert delta_filter.inner.state.position[2] == pytest.approx(0.2 - 0.3 * 0.05)
    assert math.isfinite(filtered.action.sum())


def test_the_workspace_holds_for_the_sum() -> None:
    delta_filter, down = started(), np.array([0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0])
    height = 0.2
    for step in range(40):
        height += 0.05 * float(ask(delta_filter, down, step).action[2])
        assert height >= -1e-9
    assert height == pytest.approx(0.0, abs=1e-6)


def test_sizes_must_fit() -> None:
    from tests.vla.safety.robots import one_joint

    with pytest.raises(ValueError, match="7 changes do not fit limits of 1 positions"):
        DeltaFilter(ActionFilter(one_joint(), 1.0), PANDA_COMMANDS)
