"""What scripted experts have in common: waypoints on true positions, and taking a thing from one place to another."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, Expert, FloatArray, ManipulationEnvironment
from sim.core.operational_space import matrix_to_rotation_vector
from sim.embodiments import POSITION_SCALE, ROTATION_SCALE
from sim.libero.environment import LiberoEnvironment
from sim.libero.goals import Thing
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

QUARTER_TURN_MARGIN = 0.1
"""Angle (rad) short of a quarter turn at which the hand turns the other way."""

POSITION_GAIN = 2.5
ROTATION_GAIN = 1.5

SPEED_LIMIT = 0.8
"""Largest translation action; at full speed the bowl swings in the fingers."""

LOST_DISTANCE = 0.09
"""Distance (m) of the fingertips from where they took hold beyond which a thing is no longer held."""

WIDEST = 0.075
"""Width (m) of things that the fingers get around."""

FINGER_DEPTH = 0.035
"""How far (m) below the top of a tall thing the fingertips close."""

LOWEST_GRASP = 0.012
"""Height (m) of the fingertips over the floor at which they do not touch it."""

RELEASE_HEIGHT = 0.012
"""Height (m) of a thing over its destination below which the fingers open."""


class WaypointExpert(Expert):
    """Waypoints on true positions; each is reached by proportional control of the end effector.

    A subclass plans at `_plan` and says where to go next at `_next`.
    """

    def __init__(self, task: LiberoTask, seed: int) -> None:
        """`seed` shifts the grasp by a few millimetres, so that demonstrations of one state differ between seeds."""
        self._generator = np.random.default_rng([seed, task.index])
        self.upright: _Vector | None = None
        """The hand's orientation [3, 3] to plan with, where it is not the one at the reset."""
        self.done = False
        """Whether it has nothing left to do; only those say so that prepare for another."""
        self.goal_index = 0
        """Which condition of the task's goal it fulfils."""
        self.attempt = 0
        """How often it was tried before: a thing that could not be held one way is held another."""
        self.carry_height = CARRY_HEIGHT
        """World height (m) at which things are carried, at least."""

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Start a new episode from the environment's present state."""
        scene = libero_scene(environment)
        self._hold, rotation = scene.end_effector_pose()
        self._rotation = rotation if self.upright is None else self.upright
        self._plan(scene)
        self._enter("approach")

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        """The next action, float32 [7]."""
        scene = libero_scene(environment)
        position, rotation = scene.end_effector_pose()
        turn = matrix_to_rotation_vector(self._rotation @ rotation.T)
        self._steps_in_phase += 1
        target, gripper = self._next(scene, position, aligned=bool(np.linalg.norm(turn) < ALIGNED))
        action = np.empty(7)
        action[:3] = np.clip(POSITION_GAIN * (target - position) / POSITION_SCALE, -SPEED_LIMIT, SPEED_LIMIT)
        action[3:6] = ROTATION_GAIN * turn / ROTATION_SCALE
        action[6] = gripper
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    @property
    def let_go(self) -> bool:
        """Whether it has put down what it moved."""
        return self._phase == "release" and self._steps_in_phase > RELEASE_STEPS

    @abstractmethod
    def _plan(self, scene: LiberoScene) -> None:
        """Decide how to hold what is to be moved; may turn `_rotation`, the gripper's orientation."""

    @abstractmethod
    def _next(self, scene: LiberoScene, position: _Vector, aligned: bool) -> tuple[_Vector, float]:
        """Target position and gripper command (-1 open, +1 close) with the end effector at `position`."""

    def _turn_along(self, axis: _Vector) -> None:
        """Turn the fingers, the shorter way, to close along the horizontal part of a world axis [3]."""
        yaw = np.arctan2(axis[1], axis[0]) - np.arctan2(self._rotation[1, 0], self._rotation[0, 0])
        # Either direction of the axis does: take the smaller turn; of two quarter turns the one that the wrist has
        # more room for, whatever the last digits say.
        smallest = -np.pi / 2 + QUARTER_TURN_MARGIN
        yaw = (yaw - smallest) % np.pi + smallest
        self._rotation = turn_about_vertical(yaw) @ self._rotation

    def _grasp(self, position: _Vector, target: _Vector, aligned: bool) -> tuple[_Vector, float]:
        """From wherever the hand is to holding what is at `target`: over it, down, close."""
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

    def _release(self) -> tuple[_Vector, float]:
        """Let go and move up."""
        return self._hold + np.array([0.0, 0.0, HOVER if self._steps_in_phase > RELEASE_STEPS else 0.0]), -1.0

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._steps_in_phase = 0


class PlacingExpert(WaypointExpert):
    """Takes one thing to one place: over it, down, close; up, across, down, open."""

    _thing: str
    """Name of what is moved."""
    _offset: _Vector
    """Where the fingertips hold it, [3] in its own frame (m)."""
    _carry: float
    """World height (m) of the fingertips while carrying."""
    losses = 0
    """How often it slipped out of the fingers, or never was between them."""

    def _holding_point(self, scene: LiberoScene) -> _Vector:
        """Where the fingertips hold the thing, wherever it is now: at `_offset` in its own frame, unless overridden."""
        place: _Vector = scene.body_position(self._thing) + scene.body_rotation(self._thing) @ self._offset
        return place

    @abstractmethod
    def _destination(self, scene: LiberoScene) -> _Vector:
        """Where the thing's origin is when it is let go."""

    def _next(self, scene: LiberoScene, position: _Vector, aligned: bool) -> tuple[_Vector, float]:
        holding_point = self._holding_point(scene)
        if self._phase in ("approach", "descend", "grasp"):
            return self._grasp(position, holding_point, aligned)
        if self._phase == "release":
            return self._release()
        if np.linalg.norm(position - holding_point) > LOST_DISTANCE:
            self.losses += 1
            self._enter("approach")  # it slipped out of the fingers: pick it up again
            return position, -1.0
        if self._phase == "lift":
            if position[2] > self._carry - 0.02:
                self._enter("carry")
            return np.array([*self._hold[:2], self._carry]), 1.0
        thing, destination = scene.body_position(self._thing), self._destination(scene)
        # It hangs at an offset that the grasp decided: bring the thing there, not the hand.
        target = destination + position - thing
        if self._phase == "carry":
            if np.linalg.norm(target[:2] - position[:2]) < 0.01:
                self._enter("lower")
            return np.array([*target[:2], self._carry]), 1.0
        if thing[2] - destination[2] < RELEASE_HEIGHT or self._steps_in_phase > LOWER_STEPS:
            self._enter("release")
            self._hold = position
        return target, 1.0

    def _plan_rim(self, along: _Vector | None = None, radius: float = RIM_RADIUS) -> None:
        """Hold a bowl by its rim, fingers across its wall, turned along a world axis [3] if one is given."""
        if along is not None:
            self._turn_along(along)
        self._rim_offset = radius * self._rotation[:, 0]  # the fingers open along the frame's x axis
        self._rim_offset[2] = RIM_HEIGHT
        self._rim_offset += self._generator.uniform(-0.002, 0.002, 3)

    def _plan_across(self, scene: LiberoScene, thing: Thing) -> float:
        """Hold a thing that stands or lies somewhere across its narrow side: at its middle, or near its top.

        Returns the height (m) of the fingertips over the thing's lower end. Raises `EnvironmentRequestError` for a
        thing that the gripper does not get around.
        """
        low, high = scene.bounds(thing)
        rotation = scene.body_rotation(thing.name)
        upright = int(np.argmax(np.abs(rotation[2])))
        sides = sorted((high[side] - low[side], side) for side in range(3) if side != upright)
        if sides[0][0] > WIDEST:
            raise EnvironmentRequestError(f"{thing.name} is {100 * sides[0][0]:.1f} cm wide; the gripper opens to 8 cm")
        fitting = [side for width, side in sides if width <= WIDEST]
        self._turn_along(rotation[:, fitting[self.attempt % len(fitting)]])
        centre = scene.body_position(thing.name) + rotation @ ((low + high) / 2)
        half_height = (high[upright] - low[upright]) / 2
        height = max(centre[2], centre[2] + half_height - FINGER_DEPTH, centre[2] - half_height + LOWEST_GRASP)
        self._offset = rotation.T @ (np.array([*centre[:2], height]) - scene.body_position(thing.name))
        self._offset += self._generator.uniform(-0.002, 0.002, 3)
        return float(height - centre[2] + half_height)


def libero_scene(environment: ManipulationEnvironment) -> LiberoScene:
    """The true state behind an environment. Raises `EnvironmentRequestError` when it is not of LIBERO's kind."""
    # gymnasium's wrappers hide the scene; the expert needs the environment itself.
    bare = environment.unwrapped
    if not isinstance(bare, LiberoEnvironment):
        raise EnvironmentRequestError(f"this expert acts in LIBERO environments only, not in {type(bare).__name__}")
    return bare.scene


def turn_about_vertical(angle: float) -> NDArray[np.float64]:
    """Rotation matrix [3, 3] of a turn (rad) about the vertical."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
