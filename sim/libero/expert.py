"""A scripted expert for libero_spatial: pick the black bowl up by its rim and lower it onto the plate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.contract import (
    POSITION_SCALE,
    ROTATION_SCALE,
    EnvironmentRequestError,
    Expert,
    FloatArray,
    ManipulationEnvironment,
)
from sim.core.operational_space import matrix_to_rotation_vector
from sim.libero.environment import LiberoEnvironment
from sim.libero.scene import LiberoScene
from sim.libero.tasks import LiberoTask

_Vector = NDArray[np.float64]

RIM_RADIUS = 0.048
"""Distance (m) from the bowl's axis to the middle of its wall, where the fingers close."""

RIM_HEIGHT = 0.036
"""Height (m) of the fingertips over the bowl's origin when they close on the wall."""

HOVER = 0.10
"""Clearance (m) over the grasp while approaching."""

CARRY_HEIGHT = 1.18
"""World height (m) of the fingertips while carrying; the cabinet's top lies at about 1.12."""

GRASP_STEPS = 14
"""Control steps that the fingers need from wide open to a firm grip."""

DESCEND_STEPS = 30
"""Control steps after which the fingers close wherever they are."""

LOWER_STEPS = 45
"""Control steps of lowering after which the bowl is let go wherever it is."""

RELEASE_STEPS = 8
"""Control steps from opening the fingers to moving away."""

ALIGNED = 0.08
"""Rotation error (rad) below which the gripper may descend."""

POSITION_GAIN = 2.5
ROTATION_GAIN = 1.5

SPEED_LIMIT = 0.8
"""Largest translation action; at full speed the bowl swings in the fingers."""

LOST_DISTANCE = 0.11
"""Distance (m) between fingertips and bowl beyond which the bowl is no longer held."""

RELEASE_HEIGHT = 0.012
"""Height (m) of the bowl's origin over the plate's below which the fingers open."""


@dataclass(frozen=True)
class Grasp:
    """How to hold the bowl in one task."""

    radius: float = RIM_RADIUS
    """Distance (m) from the bowl's axis to the point between the open fingers."""
    along: str | None = None
    """Fixture along whose x axis the fingers close; None keeps the gripper's initial orientation (world y)."""


# Inside the drawer the fingers must close along its width, and a little inwards of the rim to clear its side.
GRASPS = {4: Grasp(radius=0.042, along="wooden_cabinet_1")}
"""Task of libero_spatial -> grasp that its surroundings leave room for, where it is not the default one."""


class BowlExpert(Expert):
    """Waypoint controller on true positions; each waypoint is reached by proportional control of the end effector."""

    def __init__(self, task: LiberoTask, seed: int) -> None:
        """`seed` shifts the grasp by a few millimetres, so that demonstrations of one state differ between seeds."""
        self._grasp = GRASPS.get(task.index, Grasp())
        self._generator = np.random.default_rng([seed, task.index])

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Start a new episode from the environment's present state."""
        scene = _scene(environment)
        _, self._bowl, self._plate = scene.goal()[0]
        position, rotation = scene.end_effector_pose()
        yaw = 0.0
        if self._grasp.along is not None:
            axis = scene.body_rotation(self._grasp.along)[:, 0]
            yaw = np.arctan2(axis[1], axis[0]) - np.arctan2(rotation[1, 0], rotation[0, 0])
            yaw = (yaw + np.pi / 2) % np.pi - np.pi / 2  # either direction of the axis does: take the smaller turn
        self._rotation = _turn_about_vertical(yaw) @ rotation
        self._rim_offset = self._grasp.radius * self._rotation[:, 0]  # the fingers open along the frame's x axis
        self._rim_offset[2] = RIM_HEIGHT
        self._rim_offset += self._generator.uniform(-0.002, 0.002, 3)
        self._hold = position
        self._enter("approach")

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        """The next action, float32 [7]."""
        scene = _scene(environment)
        position, rotation = scene.end_effector_pose()
        bowl, plate = scene.body_position(self._bowl), scene.body_position(self._plate)
        turn = matrix_to_rotation_vector(self._rotation @ rotation.T)
        self._steps_in_phase += 1
        if self._phase in ("approach", "descend", "grasp"):
            target, gripper = self._pick(position, bowl, aligned=bool(np.linalg.norm(turn) < ALIGNED))
        else:
            target, gripper = self._place(position, bowl, plate)
        action = np.empty(7)
        action[:3] = np.clip(POSITION_GAIN * (target - position) / POSITION_SCALE, -SPEED_LIMIT, SPEED_LIMIT)
        action[3:6] = ROTATION_GAIN * turn / ROTATION_SCALE
        action[6] = gripper
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _pick(self, position: _Vector, bowl: _Vector, aligned: bool) -> tuple[_Vector, float]:
        """Target position and gripper command (-1 open, +1 close) until the fingers hold the rim."""
        target = bowl + self._rim_offset
        if self._phase == "approach":
            target = target + np.array([0.0, 0.0, HOVER])
            if aligned and np.linalg.norm(target - position) < 0.01:
                self._enter("descend")
            return target, -1.0
        if self._phase == "descend":
            if np.linalg.norm(target - position) < 0.006 or self._steps_in_phase > DESCEND_STEPS:
                self._enter("grasp")
                self._hold = position
            return target, -1.0
        if self._steps_in_phase > GRASP_STEPS:
            self._enter("lift")
        return self._hold, 1.0

    def _place(self, position: _Vector, bowl: _Vector, plate: _Vector) -> tuple[_Vector, float]:
        """Target position and gripper command from lifting the bowl to letting it go."""
        # The bowl hangs at an offset that the grasp decided: bring the bowl over the plate, not the hand.
        over_plate = plate + (position - bowl)
        if self._phase == "release":
            return self._hold + np.array([0.0, 0.0, HOVER if self._steps_in_phase > RELEASE_STEPS else 0.0]), -1.0
        if np.linalg.norm(position - bowl) > LOST_DISTANCE:
            self._enter("approach")  # the bowl slipped out of the fingers: pick it up again
            return position, -1.0
        if self._phase == "lift":
            if position[2] > CARRY_HEIGHT - 0.02:
                self._enter("carry")
            return np.array([*self._hold[:2], CARRY_HEIGHT]), 1.0
        if self._phase == "carry":
            target = np.array([*over_plate[:2], CARRY_HEIGHT])
            if np.linalg.norm(target[:2] - position[:2]) < 0.01:
                self._enter("lower")
            return target, 1.0
        if bowl[2] - plate[2] < RELEASE_HEIGHT or self._steps_in_phase > LOWER_STEPS:
            self._enter("release")
            self._hold = position
        return over_plate, 1.0

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._steps_in_phase = 0


def _scene(environment: ManipulationEnvironment) -> LiberoScene:
    # gymnasium's wrappers hide the scene; the expert needs the environment itself.
    bare = environment.unwrapped
    if not isinstance(bare, LiberoEnvironment):
        raise EnvironmentRequestError(f"this expert acts in LIBERO environments only, not in {type(bare).__name__}")
    return bare.scene


def _turn_about_vertical(angle: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
