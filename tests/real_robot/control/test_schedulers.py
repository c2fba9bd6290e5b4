"""The strategies, worked by hand: control steps at 10 Hz, so that step n is at n / 10."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from real_robot.control.schedulers import (
    Asynchronous,
    Chunk,
    DelayForecast,
    Ensemble,
    RealTime,
    Synchronous,
    Timing,
    elapsed_steps,
    ensemble_weights,
    make_scheduler,
)

TIMING = Timing(frequency=10.0, execute_steps=3, max_chunk_age=1.0, max_action_delay=0.15)


def chunk(number: int, observed: float, first: float = 0.0, horizon: int = 6) -> Chunk:
    """Actions first, first + 1, ... of a robot with one joint."""
    return Chunk(number, observed, first + np.arange(horizon, dtype=np.float64)[:, None])


def value(planned: object) -> float:
    action: NDArray[np.float64] = planned.action  # type: ignore[attr-defined]
    return float(action[0])


def test_sync_executes_its_steps_then_asks_and_has_nothing_until_the_answer() -> None:
    scheduler = Synchronous(TIMING)
    assert scheduler.wants(0.0) and scheduler.due(0.0) is None
    assert scheduler.add(chunk(0, 0.0), 0.4) is None
    assert [value(scheduler.due(0.4 + step / 10)) for step in range(3)] == [0.0, 1.0, 2.0]
    assert scheduler.due(0.7) is None and scheduler.wants(0.7)
    scheduler.add(chunk(1, 0.7, first=50.0), 0.9)
    assert value(scheduler.due(0.9)) == 50.0, "the chunk's first: the arm has held since the observation"
    assert not scheduler.wants(1.0)


def test_sync_actions_expire_from_the_moment_the_chunk_was_begun() -> None:
    scheduler = Synchronous(TIMING)
    scheduler.add(chunk(0, 0.0), 0.4)
    deadlines = [scheduler.due(0.4 + step / 10).deadline for step in range(3)]  # type: ignore[union-attr]
    assert deadlines == pytest.approx([0.55, 0.65, 0.75])


def test_async_begins_where_the_time_has_come_to_and_blends() -> None:
    scheduler = Asynchronous(TIMING, blend_steps=1)
    scheduler.add(chunk(0, 0.0), 0.2)
    planned = scheduler.due(0.2)
    assert planned is not None and (planned.index, value(planned)) == (2, 2.0)
    assert planned.deadline == pytest.approx(0.35), "meant for 0.2"
    assert not scheduler.wants(0.2) and scheduler.wants(0.3)
    scheduler.add(chunk(1, 0.3, first=100.0), 0.5)
    blended = scheduler.due(0.5)
    assert value(blended) == pytest.approx(0.5 * 102.0 + 0.5 * 5.0), "the middle of both at one of one blend steps"
    assert value(scheduler.due(0.6)) == 103.0
    assert value(scheduler.due(0.8)) == 105.0
    assert scheduler.due(0.9) is None, "the chunk is used up"


def test_async_does_not_blend_with_a_chunk_that_is_used_up() -> None:
    scheduler = Asynchronous(TIMING, blend_steps=3)
    scheduler.add(chunk(0, 0.0, horizon=4), 0.1)
    scheduler.add(chunk(1, 0.4, first=100.0), 0.5)
    assert value(scheduler.due(0.5)) == 101.0


def test_the_share_of_a_new_chunk_grows_evenly() -> None:
    scheduler = Asynchronous(TIMING, blend_steps=3)
    flat = np.zeros((20, 1))
    scheduler.add(Chunk(0, 0.0, flat), 0.1)
    scheduler.add(Chunk(1, 0.3, flat + 1.0), 0.4)
    assert [value(scheduler.due(0.4 + step / 10)) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_ensemble_weighs_the_oldest_most_as_act_does() -> None:
    scheduler = Ensemble(TIMING, decay=0.5)
    assert scheduler.wants(0.0)
    scheduler.add(chunk(0, 0.0), 0.1)
    scheduler.add(chunk(1, 0.1, first=10.0), 0.2)
    old, new = 1.0, np.exp(-0.5)
    planned = scheduler.due(0.2)
    assert value(planned) == pytest.approx((2.0 * old + 11.0 * new) / (old + new))
    assert planned is not None and planned.chunk == 1 and planned.index == 1
    assert value(scheduler.due(0.6)) == pytest.approx(15.0), "the older chunk is used up"
    assert scheduler.due(0.7) is None


@given(st.integers(1, 50), st.floats(0.0, 5.0))
def test_ensemble_weights_sum_to_one_and_never_grow_towards_the_newest(count: int, decay: float) -> None:
    weights = ensemble_weights(count, decay)
    assert weights.sum() == pytest.approx(1.0)
    assert (np.diff(weights) <= 1e-15).all() and (weights >= 0).all()


def test_real_time_hands_over_what_is_under_way_and_does_not_blend() -> None:
    scheduler = RealTime(TIMING)
    assert scheduler.under_way(0.0, delay=2) is None
    scheduler.add(chunk(0, 0.0), 0.1)
    under_way = scheduler.under_way(0.3, delay=2)
    assert under_way is not None and under_way.actions[:, 0].tolist() == [3.0, 4.0, 5.0] and under_way.delay == 2
    assert scheduler.under_way(0.5, delay=4).delay == 1, "no more than there are"  # type: ignore[union-attr]
    assert scheduler.under_way(0.6, delay=1) is None
    scheduler.add(chunk(1, 0.3, first=100.0), 0.5)
    assert value(scheduler.due(0.5)) == 102.0


@pytest.mark.parametrize("strategy", ["sync", "ensemble", "async", "rtc"])
def test_what_is_late_out_of_order_or_not_finite_is_refused_and_counted(strategy: str) -> None:
    scheduler = make_scheduler(strategy, TIMING, blend_steps=2, ensemble_decay=0.01)  # type: ignore[arg-type]
    assert scheduler.add(chunk(1, 0.0, horizon=30), 1.2) == "late", "older than max_chunk_age"
    bad = chunk(2, 1.2)
    bad.actions[3] = np.nan
    assert scheduler.add(bad, 1.3) == "not_finite"
    assert scheduler.due(1.3) is None
    assert scheduler.add(chunk(4, 1.3), 1.4) is None
    assert scheduler.add(chunk(3, 1.3), 1.4) == "out_of_order"
    assert scheduler.rejected == {"late": 1, "not_finite": 1, "out_of_order": 1}
    scheduler.reset(first=10)
    assert scheduler.due(1.4) is None, "an episode begins with nothing"
    assert scheduler.add(chunk(9, 1.4), 1.4) == "out_of_order", "a request of the episode before"
    assert scheduler.add(chunk(10, 1.4), 1.4) is None


@pytest.mark.parametrize("strategy", ["ensemble", "async", "rtc"])
def test_a_chunk_whose_actions_are_all_past_is_late(strategy: str) -> None:
    scheduler = make_scheduler(strategy, TIMING, blend_steps=2, ensemble_decay=0.01)  # type: ignore[arg-type]
    assert scheduler.add(chunk(0, 0.0, horizon=6), 0.6) == "late"
    assert scheduler.add(chunk(1, 0.1, horizon=6), 0.6) is None


@given(
    st.sampled_from(["ensemble", "async", "rtc"]),
    st.lists(st.integers(1, 5), min_size=3, max_size=10),
    st.integers(0, 4),
)
def test_a_policy_that_knows_the_future_is_followed_exactly(strategy: str, delays: list[int], blend: int) -> None:
    """Each chunk says where to be at each step; whatever the delays, what is due at step n is then n."""
    scheduler = make_scheduler(strategy, TIMING, blend_steps=blend, ensemble_decay=0.1)  # type: ignore[arg-type]
    waiting: tuple[int, Chunk] | None = None
    remaining, number = list(delays), 0
    for step in range(60):
        now = step / 10
        if waiting is not None and waiting[0] <= step:
            assert scheduler.add(waiting[1], now) is None
            waiting = None
        if waiting is None and remaining and scheduler.wants(now):
            waiting = (step + remaining.pop(), chunk(number, now, first=float(step), horizon=12))
            number += 1
        planned = scheduler.due(now)
        if planned is not None:
            assert value(planned) == pytest.approx(step)
            assert now <= planned.deadline


def test_elapsed_steps_are_rounded() -> None:
    assert [elapsed_steps(10.0, 10.0 + late, 10.0) for late in (0.0, 0.04, 0.06, 0.1, 0.29)] == [0, 0, 1, 1, 3]


def test_the_forecast_is_the_longest_of_the_last_ten() -> None:
    forecast = DelayForecast(10.0)
    assert forecast.steps == 1
    for seconds in (0.5, *[0.11] * 9):
        forecast.add(seconds)
    assert forecast.steps == 5
    forecast.add(0.1)
    assert forecast.steps == 2
