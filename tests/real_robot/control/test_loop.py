"""The control loop in real time on a simulated SO-101: its rate, and what it does when something goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from real_robot.control.inference import Decide, InferenceWorker
from real_robot.control.loop import ControlLoop, LoopSettings
from real_robot.control.schedulers import Strategy, Timing, UnderWay, make_scheduler
from real_robot.control.steps import Ending, EpisodeResult, Step
from real_robot.control.timing import LatencyLog
from sim.contract import Observation
from tests.real_robot.control.simulated import SimulatedArm, StepFilter, StillCamera, sway
from vla.safety.decision import Decision

FREQUENCY = 30.0


@dataclass
class Rig:
    """A loop and all it is made of."""

    arm: SimulatedArm
    cameras: dict[str, StillCamera]
    loop: ControlLoop
    latency: LatencyLog
    steps: list[Step] = field(default_factory=list)

    def run(self, steps: int, done: Callable[[], bool] = lambda: False) -> EpisodeResult:
        return self.loop.run("lift the block", steps, done)

    @property
    def problems(self) -> list[str | None]:
        return [step.problem for step in self.steps]


@contextmanager
def rig(
    decide: Decide,
    strategy: Strategy = "async",
    max_chunk_age: float = 0.5,
    on_step: Callable[[Step], None] = lambda step: None,
    pulse: object = None,
    on_gap: Callable[[], None] = lambda: None,
) -> Iterator[Rig]:
    arm = SimulatedArm()
    arm.connect()
    cameras = {"front": StillCamera(), "wrist": StillCamera()}
    timing = Timing(FREQUENCY, execute_steps=8, max_chunk_age=max_chunk_age, max_action_delay=0.1)
    latency = LatencyLog(10_000)
    action_filter = StepFilter()
    action_filter.reset(arm.observe().positions, time.monotonic())
    steps: list[Step] = []

    def note(step: Step) -> None:
        steps.append(step)
        on_step(step)

    with InferenceWorker(decide) as worker:
        loop = ControlLoop(
            arm, cameras, action_filter, make_scheduler(strategy, timing, 3, 0.01), worker,
            LoopSettings(FREQUENCY, max_camera_age=0.2), latency, pulse, note, on_gap,  # type: ignore[arg-type]
        )  # fmt: skip
        yield Rig(arm, cameras, loop, latency, steps)


def slow(seconds: float) -> Decide:
    def decide(observation: Observation, under_way: UnderWay | None) -> NDArray[np.float64]:
        time.sleep(seconds)
        return sway(observation)

    return decide


def test_the_rate_holds_for_seconds_while_the_policy_takes_three_periods() -> None:
    with rig(slow(0.1)) as made:
        began = time.monotonic()
        result = made.run(90)
        took = time.monotonic() - began
    assert result.ending is Ending.TIME and took == pytest.approx(3.0, abs=0.1)
    assert result.steps + result.missed == 90 and result.missed <= 3
    deadlines = np.array([step.tick.deadline for step in made.steps])
    numbers = np.array([step.tick.number for step in made.steps])
    np.testing.assert_allclose(deadlines - deadlines[0], (numbers - numbers[0]) / FREQUENCY, atol=1e-6)
    report = made.latency.report()
    assert report["inference"]["p50"] == pytest.approx(100, abs=15)
    assert report["wake_late"]["p50"] < 2.0 and report["overhead"]["p50"] < 2.0
    assert made.problems.count("no_action") <= 6, "only until the first answer: deciding overlaps with executing"
    assert made.loop.seams.report()["seam"]["deg"]["count"] > 3


def test_sync_holds_the_arm_while_the_policy_decides() -> None:
    with rig(slow(0.1), "sync") as made:
        made.run(60)
    holding = [step for step in made.steps if step.problem == "no_action"]
    assert 12 <= len(holding) <= 30, "about 4 of every 12 steps"
    assert all(step.filtered.decision is Decision.HOLD for step in holding)
    ages = {step.planned.index for step in made.steps if step.planned is not None}
    assert ages == set(range(8))


@pytest.mark.parametrize("strategy", ["ensemble", "async"])
def test_actions_are_those_of_the_time_they_are_sent_at(strategy: Strategy) -> None:
    with rig(slow(0.07), strategy) as made:
        made.run(45)
    for step in made.steps:
        if step.planned is not None:
            meant_for = step.planned.observed + step.planned.index / FREQUENCY
            assert meant_for == pytest.approx(step.tick.deadline, abs=1e-6)


def test_nan_actions_never_reach_the_arm_and_it_goes_on_with_the_next_chunk() -> None:
    count = 0

    def decide(observation: Observation, under_way: UnderWay | None) -> NDArray[np.float64]:
        nonlocal count
        count += 1
        chunk = sway(observation)
        if count in (2, 3):
            chunk[5, 2] = np.nan
        return chunk

    with rig(decide) as made:
        result = made.run(60)
    assert result.rejected == {"not_finite": 2}
    assert all(np.isfinite(goal).all() for _, goal in made.arm.sent)
    assert made.steps[-1].problem is None and result.decisions["pass"] > 30


def test_a_stall_of_the_policy_holds_the_arm_and_the_late_chunk_is_refused() -> None:
    calls = 0

    def decide(observation: Observation, under_way: UnderWay | None) -> NDArray[np.float64]:
        nonlocal calls
        calls += 1
        time.sleep(1.0 if calls == 3 else 0.01)
        return sway(observation, step=5.0) if calls == 3 else sway(observation)

    with rig(decide, max_chunk_age=0.5) as made:
        result = made.run(90)
    assert result.rejected == {"late": 1}
    stalled = [index for index, problem in enumerate(made.problems) if problem == "no_action" and index > 5]
    assert 12 <= len(stalled) <= 30, "from the end of its 16 actions until the late answer is replaced"
    goals = np.array([made.steps[index].sent for index in stalled])
    assert np.ptp(goals, axis=0).max() == 0.0, "it holds"
    assert made.problems[-1] is None, "and recovers"


def test_an_action_that_has_expired_is_not_sent() -> None:
    def decide(observation: Observation, under_way: UnderWay | None) -> NDArray[np.float64]:
        return sway(observation)

    with rig(decide) as made:
        observe = made.arm.observe
        made.arm.observe = lambda: (time.sleep(0.15 if len(made.steps) == 20 else 0.0), observe())[1]  # type: ignore[method-assign]
        made.run(40)
    late = made.steps[20]
    assert late.problem == "expired" and late.filtered.decision is Decision.HOLD
    assert made.steps[21].problem is None and made.steps[21].tick.missed >= 3


def test_a_frozen_camera_holds_the_arm_and_asks_nothing_of_the_policy() -> None:
    observed: list[float] = []

    def decide(observation: Observation, under_way: UnderWay | None) -> NDArray[np.float64]:
        observed.append(time.monotonic())
        return sway(observation)

    with rig(decide) as made:
        threading.Timer(0.5, lambda: setattr(made.cameras["wrist"], "frozen_at", time.monotonic())).start()
        threading.Timer(1.4, lambda: setattr(made.cameras["wrist"], "frozen_at", None)).start()
        result = made.run(66)
    stale = [step for step in made.steps if step.problem == "camera_stale:wrist"]
    assert 15 <= len(stale) <= 24 and result.problems["camera_stale"] == len(stale)
    assert all(step.filtered.decision is Decision.HOLD for step in stale)
    times = [step.tick.began for step in stale]
    assert not [moment for moment in observed if times[0] + 0.04 < moment < times[-1]]
    assert made.problems[-1] is None


def test_a_lost_packet_is_one_step_and_a_dead_bus_ends_the_episode() -> None:
    with rig(slow(0.01)) as made:
        made.arm.failures = 1
        result = made.run(30)
        assert result.ending is Ending.TIME and result.problems["arm_error"] == 1
        made.arm.failures = 1000
        result = made.run(30)
    assert result.ending is Ending.FAULT and "no status packet" in result.detail and not result.goes_on
    assert result.arm_failed
    assert result.steps == 0


def test_an_arm_that_is_waited_for_in_vain_ends_the_episode_by_the_time_it_took() -> None:
    with rig(slow(0.01)) as made:
        made.arm.failures, made.arm.failing_takes = 2, 0.2
        result = made.run(30)
    assert result.ending is Ending.FAULT and result.arm_failed
    assert made.arm.failures == 1, "six control steps went by in the first"


def test_the_filter_is_told_of_every_gap_between_commands() -> None:
    """After a control step that commanded nothing the arm's goal has stood still."""
    gaps: list[int] = []
    with rig(slow(0.01), on_gap=lambda: gaps.append(len(made.steps))) as made:
        made.arm.failures = 2
        made.run(20)
    assert gaps[0] == 0, "before the first command that goes through"
    after = [step.tick.number for step in made.steps]
    assert len(gaps) == sum(later - earlier > 1 for earlier, later in zip([-1, *after], after, strict=False)) >= 1


def test_a_failure_beside_arm_and_policy_ends_the_episode() -> None:
    with rig(slow(0.01)) as made:
        result = made.loop.run("lift", 60, failure=lambda: "the disk is full" if len(made.steps) > 9 else "")
    assert result.ending is Ending.FAULT and result.detail == "the disk is full"
    assert result.steps == 10 and not result.arm_failed and not result.goes_on


def test_a_policy_that_keeps_raising_ends_the_episode_with_its_message() -> None:
    def decide(observation: Observation, under_way: UnderWay | None) -> NDArray[np.float64]:
        raise ValueError("no such word")

    with rig(decide) as made:
        result = made.run(30)
    assert result.ending is Ending.FAULT and "ValueError: no such word" in result.detail
    assert result.inference_errors == 3


def test_orders_of_the_operator_end_the_episode_and_the_loop_beats_every_step() -> None:
    beats: list[int] = []

    class Operator:
        def beat(self, step: int) -> None:
            beats.append(step)

        def order(self) -> Ending | None:
            return Ending.OPERATOR if len(beats) > 10 else None

    with rig(slow(0.01), pulse=Operator()) as made:
        result = made.run(60)
    assert result.ending is Ending.OPERATOR and result.goes_on
    assert result.steps == 10 and len(beats) == 11


def test_success_ends_the_episode_and_the_next_uses_no_chunk_of_it() -> None:
    with rig(slow(0.08)) as made:
        result = made.run(60, done=lambda: len(made.steps) >= 12)
        assert result.success and result.steps == 12
        made.steps.clear()
        made.run(20)
        first = next(step for step in made.steps if step.planned is not None)
        assert first.planned is not None and first.planned.observed >= made.steps[0].tick.deadline
