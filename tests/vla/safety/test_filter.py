"""What the filter answers, by hand: one joint with round numbers (`one_joint`), period 1."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from tests.vla.safety.robots import one_joint, planar_arm
from vla.errors import ReflexError
from vla.safety.checks import ActionRequest
from vla.safety.config import FilterConfig
from vla.safety.decision import Decision
from vla.safety.filter import ActionFilter, filter_action
from vla.safety.setup import FilterSetup, time_to_rest


def started(at: float = 0.0, **config: Any) -> ActionFilter:
    action_filter = ActionFilter(one_joint(), 1.0, FilterConfig(**config))
    action_filter.start([at])
    return action_filter


def asked(action: Any, now: float = 0.0, **values: Any) -> ActionRequest:
    return ActionRequest(action, now, values.pop("observation_time", now), **values)


def test_an_action_within_the_limits_passes_bit_for_bit_and_is_not_the_callers_array() -> None:
    action_filter, action = started(), np.array([0.1 + 0.2], dtype=np.float32)
    filtered = action_filter.filter(asked(action))
    assert filtered.decision is Decision.PASS and filtered.reasons == ()
    assert filtered.action.tobytes() == action.astype(np.float64).tobytes()
    filtered.action[0] = 99.0
    assert action_filter.state.position[0] == np.float64(np.float32(0.1 + 0.2))


def test_a_step_is_clipped_by_the_jerk_and_then_followed_without_overshoot() -> None:
    action_filter = started()
    answers = [action_filter.filter(asked([5.0], float(step))) for step in range(12)]
    assert answers[0].action[0] == 1.0
    assert answers[0].decision is Decision.CLIP and answers[0].reasons == ("jerk:joint",)
    assert answers[2].reasons == ("pursuit:joint",)
    assert max(answer.action[0] for answer in answers) == 5.0
    assert answers[-1].decision is Decision.PASS


def test_a_position_beyond_the_range_ends_at_the_limit() -> None:
    action_filter = started(9.0)
    first = action_filter.filter(asked([1e300]))
    assert first.action[0] == pytest.approx(9.0 + 2.0 / 3.0)
    assert "position:joint" in first.reasons
    for step in range(1, 20):
        last = action_filter.filter(asked([1e300], float(step)))
        assert last.action[0] <= 10.0 * (1.0 + 2e-12)
    assert last.action[0] == pytest.approx(10.0)
    assert last.decision is Decision.CLIP


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ([math.nan], "not_finite:joint"),
        ([-math.inf], "not_finite:joint"),
        ([1.0, 2.0], "shape:[2]"),
        (1.0, "shape:[]"),
        (["up"], "kind:<U2"),
        ([None], "kind:object"),
        ([True], "kind:bool"),
        ([[1.0], [1.0, 2.0]], "kind:ValueError"),
    ],
)
def test_what_is_no_action_is_held(action: Any, reason: str) -> None:
    action_filter = started()
    filtered = action_filter.filter(asked(action))
    assert filtered.decision is Decision.HOLD
    assert filtered.reasons == (reason,)
    assert filtered.action.tolist() == [0.0]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"deadline": 9.9}, "stale:deadline"),
        ({"deadline": math.nan}, "stale:deadline"),
        ({"observation_time": 8.9}, "stale:observation"),
        ({"observation_time": 10.1}, "clock:observation"),
        ({"observation_time": math.nan}, "clock:observation"),
        ({"now": 4.0}, "clock:now"),
        ({"now": math.nan}, "clock:now"),
        ({"chunk_id": 2}, "stale:chunk"),
        ({"units": ("deg",)}, "units:joint"),
        ({"units": ("rad", "rad")}, "units:2"),
    ],
)
def test_what_is_late_or_out_of_order_or_of_another_unit_is_held(values: dict[str, Any], reason: str) -> None:
    action_filter = started(max_age=1.0)
    assert action_filter.filter(asked([0.1], 5.0, chunk_id=3)).decision is Decision.PASS
    filtered = action_filter.filter(asked([0.2], **{"now": 10.0, "chunk_id": 3, **values}))
    assert filtered.decision is Decision.HOLD
    assert reason in filtered.reasons


def test_all_that_is_wrong_is_named() -> None:
    filtered = started().filter(asked([math.nan], 0.0, deadline=-1.0, units=("deg",)))
    assert filtered.reasons == ("not_finite:joint", "units:joint", "stale:deadline")


def test_a_hold_slows_down_within_the_limits_and_the_next_good_action_goes_on() -> None:
    action_filter = started()
    for step, position in enumerate([1.0, 3.0, 5.0]):
        assert action_filter.filter(asked([position], float(step))).decision is Decision.PASS
    seen = [float(action_filter.filter(asked([math.nan], 3.0 + step)).action[0]) for step in range(6)]
    assert np.diff([5.0, *seen]).tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert action_filter.at_rest
    assert action_filter.filter(asked([seen[-1]], 9.0)).decision is Decision.PASS


def test_a_stop_is_latched_until_the_next_start() -> None:
    action_filter = started()
    action_filter.filter(asked([9.0]))
    action_filter.stop("operator")
    action_filter.stop("watchdog")
    answers = [action_filter.filter(asked([9.0], 1.0 + step)) for step in range(8)]
    assert {answer.decision for answer in answers} == {Decision.STOP}
    assert answers[0].reasons == ("operator", "watchdog") == action_filter.stopped
    assert action_filter.at_rest
    action_filter.start([0.0])
    assert action_filter.stopped == ()
    assert action_filter.filter(asked([0.5])).decision is Decision.PASS


def test_a_jump_between_chunks_is_reported_and_does_not_forbid_the_action() -> None:
    action_filter = started(max_seam_jump=[0.2])
    assert action_filter.filter(asked([0.0], 0.0, chunk_id=0)).reasons == ()
    assert action_filter.filter(asked([0.5], 1.0, chunk_id=0)).reasons == ()
    filtered = action_filter.filter(asked([0.8], 2.0, chunk_id=1))
    assert filtered.decision is Decision.PASS
    assert filtered.reasons == ("seam:joint",)
    assert action_filter.filter(asked([0.9], 3.0, chunk_id=2)).reasons[-1:] != ("seam:joint",)


def test_after_a_gap_an_arm_starts_from_a_stand() -> None:
    """Nothing was sent for a while, so that the goal stood still: what follows may not go on at the speed before."""
    moving, gap, still = started(), started(), started(1.0)
    for action_filter in (moving, gap):
        for step in range(5):
            action_filter.filter(asked([0.25 * step], float(step)))
    assert moving.state.position[0] == gap.state.position[0] == 1.0
    gap.stand()
    goes_on, from_rest = (made.filter(asked([9.0], 5.0)).action[0] for made in (moving, still))
    assert gap.filter(asked([9.0], 5.0)).action[0] == from_rest < goes_on


@pytest.mark.parametrize("mode", ["hold", "stop"])
def test_an_arm_that_is_not_where_it_was_told_to_be(mode: str) -> None:
    action_filter = started(max_tracking_error=[0.5], on_tracking_error=mode)
    assert action_filter.filter(asked([0.1], 0.0, measured=[0.49])).decision is Decision.PASS
    filtered = action_filter.filter(asked([0.2], 1.0, measured=[0.7]))
    assert filtered.decision is Decision(mode)
    assert filtered.reasons == ("tracking:joint",)
    again = action_filter.filter(asked(action_filter.state.position, 2.0, measured=action_filter.state.position))
    assert (again.decision is Decision.STOP) == (mode == "stop")


def test_a_measurement_that_cannot_be_read_is_held() -> None:
    action_filter = started(max_tracking_error=[0.5])
    assert action_filter.filter(asked([0.1], measured=[math.nan])).reasons == ("measured:not_finite:joint",)
    assert action_filter.filter(asked([0.1], measured=[0.0, 0.0])).reasons == ("measured:shape:[2]",)


def test_the_core_is_pure() -> None:
    action_filter = started()
    before, request = action_filter.state, asked([3.0])
    first, after = filter_action(before, request, action_filter.setup)
    second, again = filter_action(before, request, action_filter.setup)
    assert first.action.tobytes() == second.action.tobytes()
    assert after.velocity.tobytes() == again.velocity.tobytes()
    assert before.position.tolist() == [0.0] and action_filter.state is before


def test_a_great_tracking_error_lets_no_arm_start_far_outside() -> None:
    with pytest.raises(ValueError, match="outside its limits"):
        started(max_tracking_error=[5.0]).start([11.1])
    with pytest.raises(ValueError, match="outside its limits"):
        started(max_tracking_error=[0.5]).start([10.6])


def test_an_arm_starts_on_its_stop_but_not_far_outside_and_not_nowhere() -> None:
    action_filter = started()
    action_filter.start([10.9])
    assert action_filter.state.position.tolist() == [10.0]
    with pytest.raises(ValueError, match=r"joint is at 11\.1 rad, outside its limits -10 to 10; move the arm inside"):
        action_filter.start([11.1])
    for nowhere in ([math.nan], [0.0, 0.0], None):
        with pytest.raises(ValueError, match="1 finite positions"):
            action_filter.start(nowhere)


def test_before_the_start_there_is_no_answer() -> None:
    with pytest.raises(RuntimeError, match="call start"):
        ActionFilter(one_joint(), 1.0).filter(asked([0.0]))


def test_the_time_to_rest_by_hand() -> None:
    # 2 s to let go of acceleration 2, and from velocity 3 (below 2^2 / 1) a triangle of sqrt 3 each way.
    assert time_to_rest(one_joint(), 1.0)[0] == pytest.approx(2.0 + 2.0 * math.sqrt(3.0) + 4.0)
    # 0.1 s, and from velocity 2 a trapezium of 0.2 + 0.1 s.
    limits = one_joint(velocity=(2.0,), acceleration=(10.0,), jerk=(100.0,))
    assert time_to_rest(limits, 0.001)[0] == pytest.approx(0.1 + 0.2 + 0.1 + 0.004)
    assert ActionFilter(limits, 0.001).time_to_rest == pytest.approx(0.404)


def test_the_digest_names_limits_period_and_settings() -> None:
    setup = FilterSetup(one_joint(), 1.0, FilterConfig())
    others = [
        FilterSetup(one_joint(jerk=(2.0,)), 1.0, FilterConfig()),
        FilterSetup(one_joint(), 0.5, FilterConfig()),
        FilterSetup(one_joint(), 1.0, FilterConfig(max_age=2.0)),
    ]
    assert FilterSetup(one_joint(), 1.0, FilterConfig()).digest() == setup.digest()
    assert len({setup.digest(), *(other.digest() for other in others)}) == 4


def test_settings_that_cannot_be() -> None:
    for values in (
        {"max_age": 0.0},
        {"max_seam_jump": []},
        {"max_tracking_error": [-1.0]},
        {"on_tracking_error": "go"},
    ):
        with pytest.raises(ReflexError, match=next(iter(values))):
            FilterConfig(**values)  # type: ignore[arg-type]
    with pytest.raises(ReflexError, match=r"max_seam_jump has 2 numbers; the robot's limits name 1"):
        FilterSetup(one_joint(), 1.0, FilterConfig(max_seam_jump=[1.0, 1.0]))
    for period in (0.0, math.nan, -1.0):
        with pytest.raises(ValueError, match="period"):
            FilterSetup(one_joint(), period, FilterConfig())


def test_joints_do_not_disturb_each_other() -> None:
    action_filter = ActionFilter(planar_arm(), 0.05)
    action_filter.start([0.0, 0.0])
    filtered = action_filter.filter(asked(np.array([0.01, 3.0])))
    assert filtered.action[0] == 0.01
    assert filtered.action[1] == pytest.approx(20.0 * 0.05**2)
    assert filtered.reasons == ("acceleration:elbow",)


def test_a_state_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        started().state.chunk_id = 3  # type: ignore[misc]
