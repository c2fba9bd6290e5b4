"""Goals of the embedded suite: what must hold for a stage of a task, and how far along it is.

A goal reads a `WorldState` (true positions), never MuJoCo, so that it can be worked by hand in a test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.tabletop.scene import (
    DRAWER_CLOSED,
    DRAWER_HANDLE,
    DRAWER_OPEN,
    DRAWER_TRAVEL,
    HALF_SIZE,
    PLATE_HALF_HEIGHT,
    PLATE_RADIUS,
)

Array = NDArray[np.float64]

LIFT_HEIGHT = 0.08
"""Height (m) of an object's centre from which it counts as picked up."""
PUSH_DISTANCE = 0.10
"""Distance (m) an object must have been pushed."""
RELEASE_DISTANCE = 0.045
"""An object counts as released when the gripper is open or this far (m) from it."""
REACH = 0.3
"""Distance (m) of the gripper from which on nearing counts as progress."""
MOST_UNFINISHED = 0.95
"""Progress that a stage counts at most before its goal holds."""


@dataclass(frozen=True)
class WorldState:
    """True state of a scene. Positions in metres, world frame (table at z = 0)."""

    gripper: Array
    """[3] grip point."""
    gripper_opening: float
    """Sum of both fingers' travel (m), 0 closed, 0.08 open."""
    objects: dict[str, Array]
    """Name -> [3] centre."""
    initial_objects: dict[str, Array]
    """The same at the start of the episode."""
    plates: dict[str, Array]
    """Name -> [3] centre of the disc."""
    drawer_position: Array | None = None
    """[3] origin of the moving drawer."""
    drawer_slide: float = 0.0
    """Metres the drawer is pulled out."""
    button: Array | None = None
    """[3] top of the button when it is not pressed."""
    button_latched: bool = False
    """The button has been pressed in this episode."""

    def distance_to_gripper(self, point: Array) -> float:
        """Metres between the grip point and `point`."""
        return float(np.linalg.norm(self.gripper - point))

    def reached(self, point: Array) -> float:
        """1 with the gripper at `point`, 0 from `REACH` on."""
        return _closeness(self.distance_to_gripper(point), REACH)

    def released(self, position: Array) -> bool:
        """Whether the gripper has let go of an object at `position`."""
        return self.gripper_opening > 0.055 or self.distance_to_gripper(position) > RELEASE_DISTANCE


def _closeness(distance: float, scale: float) -> float:
    """1 at distance 0, falling linearly to 0 at `scale`."""
    return float(np.clip(1.0 - distance / scale, 0.0, 1.0))


@dataclass(frozen=True)
class Lifted:
    """The object is off the table, in the gripper."""

    item: str

    def holds(self, world: WorldState) -> bool:
        position = world.objects[self.item]
        return bool(position[2] > LIFT_HEIGHT) and world.distance_to_gripper(position) < 0.05

    def progress(self, world: WorldState) -> float:
        position = world.objects[self.item]
        height = np.clip((position[2] - HALF_SIZE) / (LIFT_HEIGHT - HALF_SIZE), 0.0, 1.0)
        return float(0.5 * world.reached(position) + 0.5 * height)


@dataclass(frozen=True)
class PlacedOn:
    """The object rests on a plate or on another object, released."""

    item: str
    target: str

    def _target(self, world: WorldState) -> tuple[Array, float, float]:
        if self.target in world.plates:
            return world.plates[self.target], PLATE_HALF_HEIGHT + HALF_SIZE, PLATE_RADIUS
        return world.objects[self.target], 2.0 * HALF_SIZE, HALF_SIZE

    def holds(self, world: WorldState) -> bool:
        position = world.objects[self.item]
        target, height, radius = self._target(world)
        centred = float(np.linalg.norm(position[:2] - target[:2])) < radius
        resting = abs(position[2] - target[2] - height) < 0.008
        return bool(centred and resting and world.released(position))

    def progress(self, world: WorldState) -> float:
        if self.holds(world):
            return 1.0
        position = world.objects[self.item]
        target, _, _ = self._target(world)
        start = world.initial_objects[self.item]
        whole = max(float(np.linalg.norm(start[:2] - target[:2])), 0.05)
        carried = np.clip(1.0 - float(np.linalg.norm(position[:2] - target[:2])) / whole, 0.0, 1.0)
        return float(0.25 * world.reached(position) + 0.65 * carried)


@dataclass(frozen=True)
class Pushed:
    """The object was moved along the table towards `direction` (a unit vector in the table plane)."""

    item: str
    direction: tuple[float, float]

    def _travel(self, world: WorldState) -> tuple[float, float]:
        """How far (m) the object was moved along the direction, and sideways."""
        moved, direction = (world.objects[self.item] - world.initial_objects[self.item])[:2], np.asarray(self.direction)
        along = float(moved @ direction)
        return along, float(np.linalg.norm(moved - along * direction))

    def holds(self, world: WorldState) -> bool:
        along, sideways = self._travel(world)
        on_table = world.objects[self.item][2] < HALF_SIZE + 0.01
        return bool(on_table and along > PUSH_DISTANCE and sideways < 0.08)

    def progress(self, world: WorldState) -> float:
        along, _ = self._travel(world)
        return float(0.3 * world.reached(world.objects[self.item]) + 0.7 * np.clip(along / PUSH_DISTANCE, 0.0, 1.0))


@dataclass(frozen=True)
class DrawerOpened:
    """The drawer is pulled out."""

    def holds(self, world: WorldState) -> bool:
        return world.drawer_slide > DRAWER_OPEN

    def progress(self, world: WorldState) -> float:
        assert world.drawer_position is not None
        reached = world.reached(world.drawer_position + DRAWER_HANDLE)
        return float(0.3 * reached + 0.7 * np.clip(world.drawer_slide / DRAWER_OPEN, 0.0, 1.0))


@dataclass(frozen=True)
class DrawerShut:
    """The drawer is pushed in."""

    def holds(self, world: WorldState) -> bool:
        return world.drawer_slide < DRAWER_CLOSED

    def progress(self, world: WorldState) -> float:
        return float(np.clip((DRAWER_TRAVEL - world.drawer_slide) / (DRAWER_TRAVEL - DRAWER_CLOSED), 0.0, 1.0))


@dataclass(frozen=True)
class InDrawer:
    """The object lies inside the drawer, released."""

    item: str

    def holds(self, world: WorldState) -> bool:
        assert world.drawer_position is not None
        offset = world.objects[self.item] - world.drawer_position
        inside = abs(offset[0]) < 0.06 and -0.08 < offset[1] < 0.096 and offset[2] < 0.045
        return bool(inside and world.released(world.objects[self.item]))

    def progress(self, world: WorldState) -> float:
        if self.holds(world):
            return 1.0
        assert world.drawer_position is not None
        position = world.objects[self.item]
        away = float(np.linalg.norm(position[:2] - world.drawer_position[:2] - np.array([0.0, -0.03])))
        return float(0.25 * world.reached(position) + 0.65 * _closeness(away, 0.35))


@dataclass(frozen=True)
class ButtonPressed:
    """The button has been pressed (it stays lit)."""

    def holds(self, world: WorldState) -> bool:
        return world.button_latched

    def progress(self, world: WorldState) -> float:
        if world.button_latched:
            return 1.0
        assert world.button is not None
        return 0.9 * _closeness(world.distance_to_gripper(world.button), 0.35)


Goal = Lifted | PlacedOn | Pushed | DrawerOpened | DrawerShut | InDrawer | ButtonPressed


def task_progress(goals: tuple[Goal, ...], world: WorldState, *, any_order: bool = False) -> float:
    """Progress in [0, 1] of a task: finished stages and a share of the present one.

    The present stage is the first whose goal does not hold, and what comes after it does not count yet. In `any_order`
    it is the one furthest along.
    """
    holds = [goal.holds(world) for goal in goals]
    if all(holds):
        return 1.0
    if any_order:
        present = max(goal.progress(world) for goal, held in zip(goals, holds, strict=True) if not held)
        return (sum(holds) + min(present, MOST_UNFINISHED)) / len(goals)
    finished = holds.index(False)
    return (finished + min(goals[finished].progress(world), MOST_UNFINISHED)) / len(goals)
