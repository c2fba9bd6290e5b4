"""The SO-101: six Feetech STS3215 servos on one serial port, set up as LeRobot sets them up."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from real_robot.arms import registers
from real_robot.arms.arm import ArmError, ArmReading
from real_robot.arms.calibration import read_calibration
from real_robot.arms.feetech import BusStatistics, FeetechBus
from real_robot.arms.registers import Register
from real_robot.arms.robot_file import RobotFile, read_robot_file
from sim.embodiments import Embodiment
from sim.so101.embodiment import JOINTS, SO101

CONFIGURATION: dict[Register, int] = {
    registers.RETURN_DELAY: 0,
    registers.P_GAIN: 16,
    registers.I_GAIN: 0,
    registers.D_GAIN: 32,
    registers.OPERATING_MODE: 0,
    registers.MAX_ACCELERATION: 254,
    registers.ACCELERATION: 254,
}
"""Of every servo. LeRobot halves the P gain against shaking, and lets the servos accelerate as fast as they can."""
GRIPPER_CONFIGURATION: dict[Register, int] = {
    registers.MAX_TORQUE: 500,
    registers.TORQUE_LIMIT: 500,
    registers.PROTECTION_CURRENT: 250,
    registers.OVERLOAD_TORQUE: 25,
}
"""Of the gripper's, which presses on things for long: half its torque and current, a quarter when overloaded."""

FIRST, LAST = registers.TORQUE_ENABLE, registers.PRESENT_VELOCITY
"""One read of these and all between says whether a servo is powered, where it goes, where it is and how fast."""

_PATIENCE = 0.25
"""Seconds that an answer may take while nothing moves yet."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SO101Settings:
    """Which SO-101 it is."""

    port: str
    """Path of its serial port, such as /dev/ttyACM0."""
    calibration: str
    """Path of its calibration file, as `lerobot-calibrate` writes it."""
    robot_file: str = "so101"
    """Path of the file with its limits; `so101` is the one that comes with Reflex."""
    timeout: float = 0.03
    """Seconds within which a servo answers, beside the time on the wire. After a failure the line is left alone for as
    long, so that a late answer is not taken for the next one."""
    read_retries: int = 2
    """How often an answer that is lost or damaged is asked for again."""
    hold_tolerance: float = 10.0
    """Degrees or per cent that a goal may lie from the position and be held; a farther one gives way to it."""


@dataclass(frozen=True)
class _Feeling:
    """What one read of all servos says; arrays [6] in the calibration's units."""

    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]
    goals: NDArray[np.float64]
    powered: NDArray[np.bool_]
    errors: dict[str, int]
    time: float


class SO101Arm:
    """An SO-101; see `Arm`. Positions are degrees from the middle of each joint's range, and per cent of the gripper's.

    Its methods may be called from several threads.
    """

    Settings = SO101Settings

    def __init__(self, settings: SO101Settings, embodiment: Embodiment = SO101) -> None:
        """Reads its files; opens nothing. Raises `ArmError` naming the file and what is wrong in it."""
        self.settings, self.embodiment = settings, embodiment
        self.calibration = read_calibration(Path(settings.calibration), JOINTS)
        self.robot_file: RobotFile = read_robot_file(settings.robot_file)
        self.limits = self.robot_file.limits_within(self.calibration.low, self.calibration.high)
        self.max_tracking_error = self.robot_file.max_tracking_error
        ids = {name: joint.id for name, joint in self.calibration.joints.items()}
        self._bus = FeetechBus(settings.port, ids, settings.timeout, settings.read_retries)
        self._goal: NDArray[np.float64] | None = None
        self._is_holding = False
        self._let_go = False
        self._last: _Feeling | None = None

    @property
    def statistics(self) -> BusStatistics:
        """How many reads were repeated or given up since the arm was made, and the longest."""
        return self._bus.statistics

    # ---- connecting ------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open the port, check every servo, configure those that need it, and hold the arm where it is.

        Raises `ArmError` for a servo that is missing, of another model or firmware, calibrated otherwise than the
        calibration file says, or that reports an error.
        """
        self._bus.close()
        self._bus.open()
        self._last = None
        try:
            with self._bus.patient(_PATIENCE):
                self._check_servos()
                self._check_calibration()
                self._configure()
                self._power_up()
                self.observe()
        except BaseException:
            self._bus.close()
            raise

    def connect_to_stop(self) -> None:
        """Open the port and check nothing, beside whoever has it: one bad servo must not keep the others from a stop.

        Only `hold` and `stop` may follow, and readings. Raises `ArmError` when the port cannot be opened.
        """
        self._bus.close()
        self._bus.open(alone=False)
        self._last = self._goal = None
        self._is_holding = self._let_go = False

    def _check_servos(self) -> None:
        for name, number in self._bus.ids.items():
            try:
                model = self._bus.ping(name)
            except ArmError as error:
                raise ArmError(
                    f"servo {number} ({name}) does not answer on {self.settings.port}; check its cable, its id, and "
                    f"the arm's power ({error})"
                ) from error
            if model != registers.MODEL_NUMBER_STS3215:
                raise ArmError(
                    f"servo {number} ({name}) is model {model}, not an STS3215 ({registers.MODEL_NUMBER_STS3215})"
                )
        firmware = {
            name: (self._bus.read(name, registers.FIRMWARE_MAJOR), self._bus.read(name, registers.FIRMWARE_MINOR))
            for name in self._bus.ids
        }
        if len(set(firmware.values())) > 1:
            listed = ", ".join(f"{name} {major}.{minor}" for name, (major, minor) in firmware.items())
            raise ArmError(f"the servos have different firmware ({listed}); update them with Feetech's software")

    def _check_calibration(self) -> None:
        for name, joint in self.calibration.joints.items():
            for register, field in (
                (registers.HOMING_OFFSET, "homing_offset"),
                (registers.MIN_POSITION, "range_min"),
                (registers.MAX_POSITION, "range_max"),
            ):
                found, wanted = self._bus.read(name, register), getattr(joint, field)
                if found != wanted:
                    raise ArmError(
                        f"{name} has {field} {found} and {self.settings.calibration} says {wanted}: it is another "
                        "arm's calibration, or this arm was calibrated since; calibrate it again or give its own file"
                    )

    def _configure(self) -> None:
        """Write what differs only: memory wears out, and a servo that is powered already goes on holding."""
        for name in self._bus.ids:
            wanted = CONFIGURATION | (GRIPPER_CONFIGURATION if name == "gripper" else {})
            different = {key: value for key, value in wanted.items() if self._bus.read(name, key) != value}
            if not different:
                continue
            self._bus.write(name, registers.LOCK, 0)
            for register, value in different.items():
                self._bus.write(name, register, value)
            self._bus.write(name, registers.LOCK, 1)

    def _power_up(self) -> None:
        """Power the servos that are not, each with its goal where it is: a goal left from before would make it jump."""
        answers = self._read()
        steps = self.calibration.to_steps(answers.positions)
        for index, name in enumerate(self._bus.ids):
            far = abs(answers.goals[index] - answers.positions[index]) > self.settings.hold_tolerance
            if far or not answers.powered[index]:
                self._bus.write(name, registers.GOAL_POSITION, int(steps[index]))
                answers.goals[index] = self.calibration.to_positions(steps)[index]  # within its range, wherever it is
            if not answers.powered[index]:
                self._bus.write(name, registers.TORQUE_ENABLE, 1)
        self._goal, self._is_holding, self._let_go = answers.goals.copy(), True, False

    # ---- driving ---------------------------------------------------------------------------------------------------

    def observe(self) -> ArmReading:
        """Where it is, by one read of all servos.

        Raises `ArmError` naming the servos that do not answer, that report an error, that are no longer powered, or
        that have another goal than they were told.
        """
        feeling = self._confirmed(self._read())
        if errors := self._bus.name_errors(feeling.errors):
            raise ArmError(f"a servo reports an error: {errors}; relieve the arm, then connect to it again")
        limp = [name for name, powered in zip(self._bus.ids, feeling.powered, strict=True) if not powered]
        if limp and not self._let_go:
            raise ArmError(
                f"{', '.join(limp)} lost power (torque is off): the supply broke down or somebody switched it off; "
                "support the arm, check the supply, then connect again"
            )
        if not self._let_go:
            self._check_goals(feeling)
        return ArmReading(feeling.positions.astype(np.float32), feeling.positions, feeling.velocities, feeling.time)

    def _check_goals(self, feeling: _Feeling) -> None:
        """Raise `ArmError` where a servo has another goal than it was told: it did not hear, or what it says is old.

        Answers have no numbers, so that on a line that is late each would be taken for the next one's.
        """
        if self._goal is None:
            return
        other = np.abs(feeling.goals - self._goal) > self.calibration.step / 2.0
        if other.any():
            names = ", ".join(name for name, differs in zip(self._bus.ids, other, strict=True) if differs)
            raise ArmError(
                f"{names}: another goal than was told; the command was lost, answers come too late, or another "
                "program commands the arm; check the cable, and that nothing else uses the port"
            )

    def _confirmed(self, feeling: _Feeling) -> _Feeling:
        """A reading that no servo is fast enough for is read again: encoders misread.

        Raises `ArmError` naming the joints where the second reading is no better: whatever follows from where such a
        joint says it is would be wrong. It stays so until the arm is connected to again.
        """
        if self._is_too_far(feeling).any():
            feeling = self._read()
            self._bus.statistics.implausible += 1
            if (far := self._is_too_far(feeling)).any():
                assert self._last is not None
                self._last = replace(self._last, time=feeling.time)
                said = ", ".join(
                    f"{name} is at {now:.1f} and was at {before:.1f}"
                    for name, now, before, jumped in zip(
                        self._bus.ids, feeling.positions, self._last.positions, far, strict=True
                    )
                    if jumped
                )
                raise ArmError(
                    f"no servo is that fast: {said}; its encoder is wrong or past the end of its scale: move the "
                    "joint into its range by hand, or calibrate the arm again, then connect again"
                )
        self._last = feeling
        return feeling

    def _is_too_far(self, feeling: _Feeling) -> NDArray[np.bool_]:
        """[6] which joints cannot have come from the last reading's positions to these."""
        last = self._last
        if last is None:
            return np.zeros(len(JOINTS), np.bool_)
        far = 2.0 * np.array(self.limits.velocity) * (feeling.time - last.time) + self.settings.hold_tolerance
        too_far: NDArray[np.bool_] = np.abs(feeling.positions - last.positions) > far
        return too_far

    def send(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Command positions [6]; returns what was sent: within the calibrated range and the limits, in whole steps."""
        if self._let_go:
            raise ArmError("the arm was let go (its torque is off); connect to it again before it is told anything")
        wanted = np.asarray(positions, np.float64)
        if wanted.shape != (len(JOINTS),):
            raise ArmError(f"an SO-101 is told {len(JOINTS)} positions, not an array of shape {wanted.shape}")
        if not np.isfinite(wanted).all():
            bad = [name for name, value in zip(JOINTS, wanted, strict=True) if not np.isfinite(value)]
            raise ArmError(f"the position of {', '.join(bad)} is not a finite number; nothing was sent")
        sent = self._write_goals(np.clip(wanted, self.limits.low, self.limits.high))
        self._is_holding = False
        return sent

    def hold(self) -> None:
        """Stay where it is, under power. Holding again keeps the same goal, so that the arm does not creep down.

        A servo that does not answer keeps the others from nothing: they hold. What the servos took is read back.
        Raises `ArmError` naming those that did not take it, or did not answer.
        """
        if self._let_go:
            raise ArmError("the arm was let go (its torque is off) and cannot hold; connect to it again")
        if self._is_holding and self._goal is not None:
            self._confirm_goals(self._goal)
            return
        feeling, failure = self._read_some()
        if failure is not None and np.isnan(feeling.positions).all():
            raise failure
        goal = feeling.goals if self._goal is None else self._goal
        # A goal near a joint is what holds it up against gravity, or where it comes to rest at once. The position would
        # not do: on a line that is late it is where the joint was. Any other goal would still move the joint, unless it
        # is not known where that is.
        near = np.abs(goal - feeling.positions) < self.settings.hold_tolerance
        lost = np.isnan(feeling.positions) | self._is_too_far(feeling)
        self._confirm_goals(np.where(near | lost, goal, feeling.positions))
        self._is_holding = True

    def stop(self, torque_off: bool = False) -> None:
        """Hold; with `torque_off`, let go as well, and check that every servo did. Raises `ArmError` naming any that
        did not.
        """
        if not torque_off:
            self.hold()
            return
        self._let_go = True
        for _ in range(self.settings.read_retries + 1):
            self._bus.sync_write(registers.TORQUE_ENABLE, dict.fromkeys(self._bus.ids, 0))
            powered = [name for name, on in zip(self._bus.ids, self._read().powered, strict=True) if on]
            if not powered:
                return
        raise ArmError(f"torque is still on at {', '.join(powered)}; cut the arm's power")

    def torque_enabled(self) -> tuple[bool, ...]:
        """Whether each servo is powered, read from it."""
        return tuple(bool(powered) for powered in self._read().powered)

    def disconnect(self) -> None:
        """Close the port. The servos keep what they have: the last goal, under power, or limp after a stop."""
        if not self._bus.is_open:
            return
        try:
            if not self._let_go:
                self.hold()
        except ArmError:
            _log.warning("the arm could not be told to hold while it was disconnected", exc_info=True)
        self._bus.close()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self.disconnect()

    # ---- the bus ---------------------------------------------------------------------------------------------------

    def _write_goals(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tell the servos positions [6]; NaN tells a servo nothing. Returns them in whole steps."""
        told = np.isfinite(positions)
        steps = self.calibration.to_steps(np.where(told, positions, 0.0))
        self._bus.sync_write(
            registers.GOAL_POSITION,
            {name: int(step) for name, step, is_told in zip(JOINTS, steps, told, strict=True) if is_told},
        )
        self._goal = np.where(told, self.calibration.to_positions(steps), np.nan)
        return self._goal.copy()

    def _confirm_goals(self, positions: NDArray[np.float64]) -> None:
        """Nobody answers a write to all servos: ask, and write again what was lost."""
        for _ in range(self.settings.read_retries + 1):
            goals = self._write_goals(positions)
            feeling, failure = self._read_some()
            if failure is not None:
                raise failure  # the others were told, and what is read of this one was asked for several times
            missed = ~(np.abs(feeling.goals - goals) <= self.calibration.step / 2.0)
            if not missed.any():
                return
        names = ", ".join(name for name, lost in zip(JOINTS, missed, strict=True) if lost)
        raise ArmError(f"the servo of {names} does not take its goal, so that the arm does not hold; cut its power")

    def _read(self) -> _Feeling:
        feeling, failure = self._read_some()
        if failure is not None:
            raise failure
        return feeling

    def _read_some(self) -> tuple[_Feeling, ArmError | None]:
        """What the servos say, NaN and no power for those that do not answer, which the error names."""
        size = LAST.address + LAST.size - FIRST.address
        answers, failure = self._bus.sync_read_some(FIRST.address, size)
        now = time.monotonic()

        def column(register: Register) -> NDArray[np.float64]:
            start = register.address - FIRST.address
            return np.array(
                [register.decode(answers[name].data[start:]) if name in answers else np.nan for name in self._bus.ids]
            )

        feeling = _Feeling(
            positions=self.calibration.to_positions(column(registers.PRESENT_POSITION)),
            velocities=self.calibration.to_velocities(column(registers.PRESENT_VELOCITY)),
            goals=self.calibration.to_positions(column(registers.GOAL_POSITION)),
            powered=column(registers.TORQUE_ENABLE) == 1,
            errors={name: answer.error for name, answer in answers.items()},
            time=now,
        )
        return feeling, failure
