"""What robosuite 1.4's tasks ask of a state, comparison by comparison as its environments judge it.

Each goal names its conditions; the share that holds is the true progress, all of them is success.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.libero.goals import touching

Vector = NDArray[np.float64]

LIFTED_HEIGHT = 0.04
"""Height (m) over the table from which a cube counts as lifted."""

DOOR_ANGLE = 0.3
"""Angle (rad) of its hinge from which the door counts as open."""

PEG_DISTANCE, PEG_HEIGHT = 0.03, 0.05
"""How near (m, along each axis) a nut's origin is to its peg's, and how high it is over the table at most."""

BIN_HEIGHT = 0.1
"""Greatest height (m) over a bin's floor of what lies in it."""

RELEASED_REACH = 0.6
"""Greatest closeness, 1 - tanh(10 distance), of the gripper to what counts as put down: about 4 cm."""

TOOL_HEIGHT = 0.02
"""Distance (m) from the wiper's face up to which it takes dirt away."""

JOINT_MARGIN = 0.1
"""Distance (rad) of a joint from its limits below which nothing is wiped."""


class Goal(Protocol):
    """A task's conditions."""

    def conditions(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[bool]:
        """Which of them hold in the present state."""

    def start(self, model: mujoco.MjModel) -> None:
        """Bring to its beginning what a goal keeps in the model."""


class _Stateless:
    def start(self, model: mujoco.MjModel) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class Lifted(_Stateless):
    """The cube is over the table."""

    body: int
    table_height: float

    def conditions(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[bool]:
        """One."""
        return [bool(data.xpos[self.body][2] > self.table_height + LIFTED_HEIGHT)]


@dataclass(frozen=True)
class Stacked(_Stateless):
    """One cube is over the table, touches the other, and is not held."""

    upper: int
    table_height: float
    upper_geoms: tuple[int, ...]
    lower_geoms: tuple[int, ...]
    finger_pads: tuple[tuple[int, ...], ...]

    def conditions(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[bool]:
        """Lifted; and lifted, let go of and in contact with the other."""
        lifted = bool(data.xpos[self.upper][2] > self.table_height + LIFTED_HEIGHT)
        held = all(touching(pad, self.upper_geoms, model, data) for pad in self.finger_pads)
        return [lifted, lifted and not held and touching(self.upper_geoms, self.lower_geoms, model, data)]


@dataclass(frozen=True)
class Opened(_Stateless):
    """The door has turned on its hinge."""

    joint: int
    """Address in `qpos`."""

    def conditions(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[bool]:
        """One."""
        return [bool(data.qpos[self.joint] > DOOR_ANGLE)]


@dataclass(frozen=True)
class OnPegs(_Stateless):
    """Each nut is around its peg, and the gripper has left it."""

    nuts: tuple[int, ...]
    pegs: tuple[int, ...]
    table_height: float
    site: int
    """Between the fingertips."""

    def conditions(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[bool]:
        """One a nut."""
        found = []
        for nut, peg in zip(self.nuts, self.pegs, strict=True):
            position = data.xpos[nut]
            near = np.all(np.abs(position[:2] - data.xpos[peg][:2]) < PEG_DISTANCE)
            low = position[2] < self.table_height + PEG_HEIGHT
            found.append(bool(near and low and released(position, data.site_xpos[self.site])))
        return found


@dataclass(frozen=True)
class InBins(_Stateless):
    """Each object is in its bin, and the gripper has left it."""

    objects: tuple[int, ...]
    lows: tuple[tuple[float, float, float], ...]
    """Lowest corner (m) of each object's bin."""
    highs: tuple[tuple[float, float, float], ...]
    site: int

    def conditions(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[bool]:
        """One an object."""
        return [
            bool(
                np.all(data.xpos[body] > low)
                and np.all(data.xpos[body] < high)
                and released(data.xpos[body], data.site_xpos[self.site])
            )
            for body, low, high in zip(self.objects, self.lows, self.highs, strict=True)
        ]


def released(position: Vector, gripper: Vector) -> bool:
    """Whether the gripper is away from what it has put down."""
    return bool(1 - np.tanh(10.0 * np.linalg.norm(gripper - position)) < RELEASED_REACH)


@dataclass(frozen=True)
class Wiped:
    """Every piece of dirt was under the wiper once. One that was is shown no more, and that is how it is remembered."""

    dirt_bodies: tuple[int, ...]
    dirt_geoms: tuple[int, ...]
    corners: tuple[int, int, int, int]
    """Geoms at the corners of the wiper's face, in robosuite's order: 1 and 2, 2 and 4 share an edge."""
    arm_geoms: tuple[int, ...]
    joint_positions: tuple[int, ...]
    """Addresses in `qpos`."""
    joint_ranges: tuple[tuple[float, float], ...]

    def start(self, model: mujoco.MjModel) -> None:
        """All the dirt is there."""
        model.geom_rgba[list(self.dirt_geoms), 3] = 1.0

    def conditions(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[bool]:
        """One a piece. Takes away what is under the wiper now, unless the arm touches something or is at a limit."""
        if data.ncon and not self._unsafe(data):
            geoms = np.array(self.dirt_geoms)
            under = under_wiper(data.xpos[list(self.dirt_bodies)], data.geom_xpos[list(self.corners)])
            model.geom_rgba[geoms[under], 3] = 0.0
        return [bool(alpha == 0.0) for alpha in model.geom_rgba[list(self.dirt_geoms), 3]]

    def _unsafe(self, data: mujoco.MjData) -> bool:
        if np.isin(data.contact.geom, self.arm_geoms).any():
            return True
        positions, limits = data.qpos[list(self.joint_positions)], np.array(self.joint_ranges)
        inside = (limits[:, 0] + JOINT_MARGIN < positions) & (positions < limits[:, 1] - JOINT_MARGIN)
        return bool((~inside & (limits[:, 0] != limits[:, 1])).any())


def under_wiper(points: Vector, corners: Vector) -> NDArray[np.bool_]:
    """Which points [n, 3] lie within the wiper's face, `corners` [4, 3], and up to `TOOL_HEIGHT` on its outer side."""
    first = _unit(corners[0] - corners[1])
    second = _unit(corners[3] - corners[1])
    normal = _unit(np.cross(first, second))
    offsets = points - corners[1]
    distances = offsets @ normal
    plane = np.stack([first, second], axis=1)
    flat = (offsets - distances[:, None] * normal) @ plane
    outline = (corners[[0, 1, 3, 2]] - corners[1]) @ plane
    inside = np.ones(len(points), dtype=bool)
    for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        edge, to_point = end - start, flat - start
        inside &= edge[0] * to_point[:, 1] - to_point[:, 0] * edge[1] < 0
    inside &= (distances > 0.0) & (distances < TOOL_HEIGHT)
    return inside


def _unit(vector: Vector) -> Vector:
    return vector / np.linalg.norm(vector)
