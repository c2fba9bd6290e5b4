"""Six emulated servos that move MuJoCo's SO-101 in a scene of the suite `so101`.

A servo here is a spring towards its goal and friction, as the suite's model has it: with its P gain and its torque
limit. It knows neither the profile by which a real one approaches a goal (acceleration and goal velocity are stored and
change nothing) nor its own protection against overload.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from real_robot.arms import registers
from real_robot.arms.calibration import Calibration, JointCalibration
from real_robot.arms.registers import RESOLUTION
from real_robot.emulators.servo_bus import ServoMemory
from real_robot.emulators.trace import SCALE, Trace
from sim.contract import Split
from sim.so101.embodiment import GRIPPER, JOINT_LIMITS, JOINTS, to_radians
from sim.so101.environment import SO101Environment
from sim.so101.scene import SUBSTEPS, TIMESTEP

STEPS_PER_RADIAN = RESOLUTION / (2.0 * np.pi)
MOUNTED_AT = np.array([2310.5, 1822.5, 2950.5, 1333.5, 1500.5, 2705.5])
"""[6] what each encoder says at the model's angle 0: horns are screwed on as they come."""
MODEL_P_GAIN = 16
"""The P coefficient that the model's stiffness was measured with; LeRobot sets it."""
STALL_CURRENT = 2.7
"""Amperes."""
_HAND_STIFFNESS, _HAND_DAMPING = 20.0, 1.5
"""Newton metres a radian, and a radian a second."""
_HALF_TURN = 2047
"""Where LeRobot's calibration puts the middle of a joint's range."""


def emulated_calibration() -> Calibration:
    """The calibration with which the arm's degrees and per cent are those of `sim.so101.embodiment`."""
    joints = {}
    for index, name in enumerate(JOINTS):
        # The gripper's range is lopsided around the model's 0; wrist_roll turns freely, and LeRobot gives it all steps.
        middle = JOINT_LIMITS[index].mean() if index == GRIPPER else 0.0
        homing = int(MOUNTED_AT[index] + middle * STEPS_PER_RADIAN) - _HALF_TURN
        half = int(np.round(np.ptp(JOINT_LIMITS[index]) / 2.0 * STEPS_PER_RADIAN))
        low, high = (0, RESOLUTION - 1) if name == "wrist_roll" else (_HALF_TURN - half, _HALF_TURN + half)
        joints[name] = JointCalibration(index + 1, 0, homing, low, high)
    return Calibration(joints)


class SO101Physics:
    """The arm, its servos' memories and the scene; steps of 1/480 s."""

    def __init__(self, task_id: int, split: Split, init_state: int, image_size: int | None, held: bool = True) -> None:
        """`held`: whether the servos carry the arm from the start; otherwise it falls until torque is enabled.

        Raises `EnvironmentRequestError` for an unknown task or state, or without the arm's model.
        """
        self.environment = SO101Environment(task_id, image_size)
        self.calibration = emulated_calibration()
        self.servos = [_calibrated(self.calibration, name) for name in JOINTS]
        model = self.environment.model
        self._stiffness = model.actuator_gainprm[:6, 0].copy()
        self._strength = model.actuator_forcerange[:6, 1].copy()
        self._jammed = np.zeros(6, bool)
        self._jammed_at = np.zeros(6)
        self._hand: NDArray[np.float64] | None = None
        self.held = held
        self.reset(split, init_state)

    # ---- from outside ----------------------------------------------------------------------------------------------

    def reset(self, split: Split, init_state: int) -> None:
        """Put the scene in a stored initial state, the servos holding the arm there. Forgets peaks and successes."""
        environment = self.environment
        environment.reset_to(split, init_state)
        self.split, self.init_state = split, init_state
        self._angles, self._speeds = environment.data.qpos[:6], environment.data.qvel[:6]
        goals = np.floor(self._frame(environment.data.ctrl[:6])).astype(int)
        self.measure()
        for servo, goal in zip(self.servos, goals, strict=True):
            servo[registers.GOAL_POSITION] = int(goal)
            servo[registers.TORQUE_ENABLE] = int(self.held)
        self._ticks = 0
        self.held_goal = self.hit_table = False
        self.success, self.progress = False, environment.true_progress()
        self._peaks = np.zeros((3, 6))
        self._last_speed, self._last_acceleration = np.zeros(6), np.zeros(6)
        self._jammed[:] = False
        self.guide(None)
        self.apply()

    def brown_out(self, joints: Sequence[str] = ()) -> None:
        """The voltage breaks down: these servos (none given: all) let go and forget what is in RAM."""
        self.measure()
        for name, servo in zip(JOINTS, self.servos, strict=True):
            if not joints or name in joints:
                servo.power_up()
        self.apply()

    def guide(self, positions: Sequence[float] | None) -> None:
        """Somebody takes the arm by the hand and leads it to positions [6] (degrees, per cent); None: lets go of it.

        Raises `ValueError` for positions that are not six finite numbers.
        """
        if positions is not None and not (len(positions) == 6 and np.isfinite(positions).all()):
            raise ValueError(f"a hand needs six finite positions, not {list(positions)}")
        self._hand = None if positions is None else to_radians(np.array(positions))
        self.environment.data.qfrc_applied[:6] = 0.0

    def jam(self, joints: Sequence[str]) -> None:
        """These servos stay where their goals are now, whatever goals come; the others work again."""
        jammed = np.array([name in joints for name in JOINTS])
        self._jammed_at = np.where(self._jammed, self._jammed_at, self._targets())
        self._jammed = jammed

    # ---- the servos' memories and the physics ----------------------------------------------------------------------

    def apply(self) -> None:
        """Take over what was written into the servos' memories."""
        model = self.environment.model
        self._powered = powered = np.array([servo[registers.TORQUE_ENABLE] == 1 for servo in self.servos])
        gains = np.array([servo[registers.P_GAIN] for servo in self.servos]) / MODEL_P_GAIN
        limits = np.array([servo[registers.TORQUE_LIMIT] for servo in self.servos]) / 1000.0
        stiffness = self._stiffness * gains * powered
        model.actuator_gainprm[:6, 0], model.actuator_biasprm[:6, 1] = stiffness, -stiffness
        strength = self._strength * np.clip(limits, 0.0, 1.0)
        model.actuator_forcerange[:6, 0], model.actuator_forcerange[:6, 1] = -strength, strength
        self._homing = np.array([servo[registers.HOMING_OFFSET] for servo in self.servos])
        limits = np.array([(servo[registers.MIN_POSITION], servo[registers.MAX_POSITION]) for servo in self.servos])
        goals = np.array([servo[registers.GOAL_POSITION] for servo in self.servos])
        self._goals = np.clip(goals, limits[:, 0], limits[:, 1])

    def measure(self) -> None:
        """Write what the servos feel into their memories."""
        environment = self.environment
        steps = np.floor(self._frame(self._angles)).astype(int)
        speeds = np.clip(np.round(self._speeds * STEPS_PER_RADIAN), -32767, 32767).astype(int)
        effort = environment.data.actuator_force[:6] / self._strength
        for index, servo in enumerate(self.servos):
            servo[registers.PRESENT_POSITION] = int(steps[index])
            servo[registers.PRESENT_VELOCITY] = int(speeds[index])
            servo[registers.PRESENT_LOAD] = int(np.clip(effort[index] * 1000.0, -1000, 1000))
            servo[registers.PRESENT_CURRENT] = int(abs(effort[index]) * STALL_CURRENT / 0.0065)
            servo[registers.MOVING] = int(abs(speeds[index]) > 10)

    def step(self) -> None:
        """Run 1/480 s."""
        environment = self.environment
        environment.data.ctrl[:6] = np.where(self._jammed, self._jammed_at, self._targets())
        if self._hand is not None:
            pull = _HAND_STIFFNESS * (self._hand - self._angles) - _HAND_DAMPING * self._speeds
            environment.data.qfrc_applied[:6] = pull + environment.data.qfrc_bias[:6]
        mujoco.mj_step(environment.model, environment.data)
        np.maximum(self._peaks[0], np.abs(self._speeds), out=self._peaks[0])
        self._ticks += 1
        if self._ticks % SUBSTEPS == 0:
            self._control_step()

    def trace_into(self, trace: Trace, time: float) -> None:
        """Note the step that was just made, which stands for `time` (monotonic seconds)."""
        trace.add(time, self._angles, self._speeds, self._powered)

    def _control_step(self) -> None:
        """What the suite's environment looks at once in a control step."""
        environment = self.environment
        mujoco.mj_kinematics(environment.model, environment.data)
        mujoco.mj_camlight(environment.model, environment.data)
        world = environment.world_state()
        self.success = bool(environment.task.goal.holds(world))
        self.held_goal |= self.success
        self.progress = environment.true_progress()
        self.hit_table |= environment.hits_table()
        period = SUBSTEPS * TIMESTEP
        acceleration = (self._speeds - self._last_speed) / period
        np.maximum(self._peaks[1], np.abs(acceleration), out=self._peaks[1])
        np.maximum(self._peaks[2], np.abs(acceleration - self._last_acceleration) / period, out=self._peaks[2])
        self._last_speed, self._last_acceleration = self._speeds.copy(), acceleration

    def _frame(self, angles: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the servos would say of joint angles (rad) [6], in steps before rounding: encoder minus offset."""
        homing = np.array([servo[registers.HOMING_OFFSET] for servo in self.servos])
        frame: NDArray[np.float64] = (MOUNTED_AT + angles * STEPS_PER_RADIAN - homing) % RESOLUTION
        return frame

    def _targets(self) -> NDArray[np.float64]:
        """Joint angles (rad) [6] that the goals stand for.

        A servo goes the way that the difference of its numbers says: it does not know that 4095 and 0 are neighbours.
        """
        present = (MOUNTED_AT + self._angles * STEPS_PER_RADIAN - self._homing) % RESOLUTION
        targets: NDArray[np.float64] = self._angles + (self._goals + 0.5 - present) / STEPS_PER_RADIAN
        return targets

    # ---- the truth -------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The simulator's truth: whether the goal holds, where the joints are and how fast they went; JSON-ready."""
        environment = self.environment
        velocity, acceleration, jerk = (self._peaks * SCALE).tolist()
        return {
            "task_id": environment.task_id,
            "instruction": environment.instruction,
            "split": self.split,
            "init_state": self.init_state,
            "simulated_seconds": self._ticks * TIMESTEP,
            "success": self.success,
            "has_succeeded": self.held_goal,
            "progress": self.progress,
            "hit_table": self.hit_table,
            "positions": environment.robot_state().tolist(),
            "velocities": (self._speeds * SCALE).tolist(),
            "torque": [bool(servo[registers.TORQUE_ENABLE]) for servo in self.servos],
            "peak_velocity": velocity,
            "peak_acceleration": acceleration,
            "peak_jerk": jerk,
        }


def _calibrated(calibration: Calibration, name: str) -> ServoMemory:
    joint = calibration.joints[name]
    servo = ServoMemory(joint.id)
    servo[registers.HOMING_OFFSET] = joint.homing_offset
    servo[registers.MIN_POSITION], servo[registers.MAX_POSITION] = joint.range_min, joint.range_max
    servo[registers.P_GAIN] = MODEL_P_GAIN
    return servo
