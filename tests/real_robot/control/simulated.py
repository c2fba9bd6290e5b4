"""A real-time SO-101 in MuJoCo, its cameras, a filter and policies for tests of the control loop."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import ArmError, ArmReading
from sim.contract import Observation
from sim.embodiments import Embodiment
from sim.so101.embodiment import SO101
from sim.so101.environment import SO101Environment
from vla.safety.checks import ActionRequest
from vla.safety.decision import Decision, Filtered
from vla.safety.limits import MotionLimits

LIMITS = MotionLimits(
    names=SO101.action.names,
    units=SO101.action.units,
    low=SO101.action.low,
    high=SO101.action.high,
    velocity=(180.0,) * 6,
    acceleration=(1200.0,) * 6,
    jerk=(20000.0,) * 6,
)


class SimulatedArm:
    """The environment, stepped to the present whenever somebody looks at it or commands it."""

    def __init__(self) -> None:
        self.embodiment: Embodiment = SO101
        self.limits = LIMITS
        self.environment = SO101Environment(0)
        self.environment.reset_to("train", 0)
        self.sent: list[tuple[float, NDArray[np.float64]]] = []
        self.failures = 0
        """How many of the next calls fail."""
        self.failing_takes = 0.0
        """Seconds until a call fails."""
        self._goal = self.environment.robot_state().astype(np.float64)
        self._time = time.monotonic()
        self._before = self._goal

    def connect(self) -> None:
        self._time = time.monotonic()

    def connect_to_stop(self) -> None:
        self.connect()

    def observe(self) -> ArmReading:
        self._fail()
        now = self._advance()
        state = self.environment.robot_state()
        positions = state.astype(np.float64)
        velocities = np.zeros(6)
        return ArmReading(state, positions, velocities, now)

    def send(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        self._fail()
        if not np.isfinite(positions).all():
            raise ArmError("a position is not finite")
        now = self._advance()
        self._goal = np.clip(positions, LIMITS.low, LIMITS.high)
        self.sent.append((now, self._goal.copy()))
        return self._goal.copy()

    def hold(self) -> None:
        self._advance()
        self._goal = self.environment.robot_state().astype(np.float64)

    def stop(self, torque_off: bool = False) -> None:
        self.hold()

    def disconnect(self) -> None:
        pass

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self.disconnect()

    def _fail(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            time.sleep(self.failing_takes)
            raise ArmError("no status packet")

    def _advance(self) -> float:
        now = time.monotonic()
        steps = int((now - self._time) * 30)
        for _ in range(min(steps, 3)):
            self.environment.advance(self._goal.astype(np.float32))
        self._time += steps / 30
        return now


@dataclass
class TimedFrame:
    image: NDArray[np.uint8]
    time: float


@dataclass
class StillCamera:
    """The same picture again and again, taken now unless it is frozen."""

    size: int = 64
    frozen_at: float | None = None

    def latest(self) -> TimedFrame:
        taken = time.monotonic() if self.frozen_at is None else self.frozen_at
        return TimedFrame(np.zeros((self.size, self.size, 3), np.uint8), taken)


@dataclass
class StepFilter:
    """Holds where it must and limits the change of a step: enough of a filter to test the loop with."""

    largest: float = 6.0
    last: NDArray[np.float64] = field(default_factory=lambda: np.zeros(6))

    def reset(self, positions: NDArray[np.float64], now: float) -> None:
        self.last = positions.copy()

    def __call__(self, request: ActionRequest) -> Filtered:
        target = request.action
        if target is None or not np.isfinite(target).all():
            return Filtered(self.last, Decision.HOLD, ("not_finite",))
        action = np.clip(target, self.last - self.largest, self.last + self.largest)
        passed = np.array_equal(action, target)
        self.last = action
        return Filtered(action, Decision.PASS if passed else Decision.CLIP, () if passed else ("step",))


def sway(observation: Observation, horizon: int = 16, step: float = 0.5) -> NDArray[np.float64]:
    """A chunk [H, 6] that turns the base a little further with each action."""
    chunk = np.tile(observation["state"].astype(np.float64), (horizon, 1))
    chunk[:, 0] += step * np.arange(1, horizon + 1)
    return chunk
