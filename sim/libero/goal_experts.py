"""Scripted experts for libero_goal: things are put on others, a drawer is pulled, a knob turned, a plate dragged."""

from __future__ import annotations

from abc import abstractmethod

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import Expert, FloatArray, ManipulationEnvironment
from sim.libero.scene import LiberoScene
from sim.libero.tasks import LiberoTask
from sim.libero.waypoints import (
    HOVER,
    RIM_HEIGHT,
    PlacingExpert,
    WaypointExpert,
    libero_scene,
    turn_about_vertical,
)

_Vector = NDArray[np.float64]

OVER_SURFACE = 0.05
"""Height (m) over a surface at which things are carried to it."""

IN_BOWL = 0.03
"""Height (m) of what lies in a bowl over the bowl's origin."""

RADIUS_IN_DRAWER = -0.048
"""Distance (m) of the fingertips from the axis of a bowl that goes into a drawer; on the side away from the robot."""

RADIUS_BESIDE_DRAWER = 0.048
"""Distance (m) of the fingertips from the axis of a bowl beside an open drawer; on the side away from the drawer."""

CLEAR_OF_DRAWER = 0.175
"""Distance (m) of a bowl from the middle of an open drawer, along its width, at which the hand has room for it."""

MAY_HANG = 0.03
"""How much (m) lower than planned a bowl held on that side may hang; it must get over the drawer's side."""

OUT_OF_BOWL = 0.07
"""Distance (m) of the hand from the bowl's middle at which its fingers have slipped over the rim."""

DRAG_STEPS = 40
"""Control steps after which a bowl stays wherever it was dragged to."""

IN_DRAWER = -0.02
"""Height (m) of a bowl's origin in a drawer over the middle of the drawer's region."""

BEFORE_HANDLE = 0.10
"""Distance (m) from a handle at which the hand turns towards it."""

TILT = 0.3
"""Angle (rad) at which the fingers point down while they hold a handle."""

HANDLE_STEPS = 12
"""Control steps of closing the fingers on a handle."""

PULL = 0.24
"""How far (m) a drawer's handle is pulled; success or the drawer's stop ends it."""

BACK_OFF_STEPS = 12
"""Control steps of moving away from an opened drawer."""

KNOB_DEPTH = 0.012
"""How far (m) below the top of a knob the fingertips close."""

KNOB_TURN = 1.4
"""Angle (rad) by which a knob is turned; success ends it."""

DRAG_HEIGHT = 0.004
"""Height (m) of the fingertips over a plate's origin while they push its rim from inside."""

OUT_OF_PLATE = 0.10
"""Distance (m) of the hand from the plate's middle at which its fingers have slipped over the rim."""

DRAG_LEAD = 0.014
"""How far (m) ahead of itself the hand is sent while dragging; decides the speed."""


class SurfaceExpert(PlacingExpert):
    """Puts a thing on a region or another thing, or into the region of an open drawer."""

    def _plan(self, scene: LiberoScene) -> None:
        predicate = scene.definition.goal[self.goal_index]
        thing, self._target = predicate.things
        self._thing, self._inside = thing.name, predicate.name == "in"
        self._by_rim = "bowl" in thing.name
        if self._by_rim:
            if self._inside:  # the drawer leaves room for fingers that close along its width
                cabinet = next(name for name in scene.definition.bodies if self._target.name.startswith(f"{name}_"))
                self._plan_rim(scene.body_rotation(cabinet)[:, 0], RADIUS_IN_DRAWER)
            else:
                self._plan_rim()
            below = RIM_HEIGHT
        else:
            below = self._plan_across(scene, thing)
        if self._inside:
            self._opened: _Vector = scene.data.site_xpos[self._target.site] + np.array([0.0, 0.0, IN_DRAWER])
        low, _ = scene.bounds(thing)
        rotation = scene.body_rotation(thing.name)
        upright = int(np.argmax(np.abs(rotation[2])))
        self._origin_height = 0.0 if self._by_rim else -float(low[upright])  # of the origin over the lower end
        self._carry = max(self.carry_height, self._destination(scene)[2] + OVER_SURFACE + below)

    def _holding_point(self, scene: LiberoScene) -> _Vector:
        if self._by_rim:
            return scene.body_position(self._thing) + self._rim_offset
        return super()._holding_point(scene)

    def _destination(self, scene: LiberoScene) -> _Vector:
        if self._target.site < 0:
            place = scene.body_position(self._target.name)
            place[2] += IN_BOWL if "bowl" in self._target.name else 0.0
            return np.asarray(place)
        if self._inside:  # where the drawer was opened to: a bowl that touches its edge must not push it shut
            return self._opened
        place = scene.data.site_xpos[self._target.site].copy()
        place[2] += self._origin_height
        return np.asarray(place)


class DrawerExpert(WaypointExpert):
    """Takes a drawer's handle from the front, fingers above and below it, and pulls."""

    tilt = TILT

    def _plan(self, scene: LiberoScene) -> None:
        self._use_joint(scene, goal_joint(scene, self.goal_index))

    def _use_joint(self, scene: LiberoScene, joint: int) -> None:
        """Plan for the drawer that slides by a joint."""
        model, data = scene.model, scene.data
        farther_end = float(model.jnt_range[joint][np.argmax(np.abs(model.jnt_range[joint]))])
        self._outwards = np.sign(farther_end) * data.xaxis[joint]
        geoms = np.flatnonzero((model.geom_bodyid == model.jnt_bodyid[joint]) & (model.geom_contype > 0))
        self._handle = int(geoms[np.argmax(data.geom_xpos[geoms] @ self._outwards)])
        # From above rather than level: the forearm would sweep the table.
        self._approach = np.cos(self.tilt) * self._outwards + np.array([0.0, 0.0, np.sin(self.tilt)])
        self._rotation = _facing(-self._approach, self._rotation)

    def _next(self, scene: LiberoScene, position: _Vector, aligned: bool) -> tuple[_Vector, float]:
        handle = scene.data.geom_xpos[self._handle]
        if self._phase == "approach":
            target = handle + BEFORE_HANDLE * self._approach
            if aligned and np.linalg.norm(target - position) < 0.012:
                self._enter("reach")
            return target, -1.0
        if self._phase == "reach":
            if np.linalg.norm(handle - position) < 0.01 or self._steps_in_phase > 25:
                self._enter("close")
                self._hold = position
            return handle, -1.0
        if self._phase == "close":
            if self._steps_in_phase > HANDLE_STEPS:
                self._enter("pull")
            return self._hold, 1.0
        return self._hold + PULL * self._outwards, 1.0


class _BesideDrawer(SurfaceExpert):
    """Puts a bowl into the open drawer that it stands beside, held on the side away from the drawer."""

    def _plan(self, scene: LiberoScene) -> None:
        super()._plan(scene)
        self._rim_offset[:2] -= RADIUS_IN_DRAWER * self._rotation[:2, 0]
        self._rim_offset[:2] += RADIUS_BESIDE_DRAWER * away_from_drawer(scene, self._thing, self._target.site)[:2]
        self._carry += MAY_HANG


class DrawerThenPlaceExpert(Expert):
    """Drags the bowl out of the drawer's way, opens the drawer, backs off, and puts the bowl there."""

    def __init__(self, task: LiberoTask, seed: int) -> None:
        """See `WaypointExpert`."""
        self._parts = (_OutOfTheWay(task, seed), _InnerDrawer(task, seed), _BesideDrawer(task, seed))

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Start a new episode from the environment's present state."""
        _, self._upright = libero_scene(environment).end_effector_pose()
        self._index = 0
        self._start(environment)

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        """The next action, float32 [7]."""
        if self._index < 2 and self._parts[self._index].done:
            self._index += 1
            self._start(environment)
        return self._parts[self._index].act(environment)

    def _start(self, environment: ManipulationEnvironment) -> None:
        self._parts[self._index].upright = self._upright
        self._parts[self._index].reset(environment)


class _InnerDrawer(DrawerExpert):
    """The drawer that holds a goal's region; `done` once it is open and the hand has backed off."""

    def _plan(self, scene: LiberoScene) -> None:
        self.done = False
        region = scene.definition.goal[0].things[1].site
        body = int(scene.model.site_bodyid[region])
        joint = int(scene.model.body_jntadr[body])
        self._address = int(scene.model.jnt_qposadr[joint])
        self._range = float(np.abs(scene.model.jnt_range[joint]).max())
        self._use_joint(scene, joint)

    def _next(self, scene: LiberoScene, position: _Vector, aligned: bool) -> tuple[_Vector, float]:
        opened = abs(float(scene.data.qpos[self._address])) > 0.93 * self._range
        if self._phase == "pull" and opened:
            self._enter("back off")
            self._hold = position
        if self._phase == "back off":
            self.done = self._steps_in_phase > BACK_OFF_STEPS
            return self._hold + BEFORE_HANDLE * self._approach, -1.0
        return super()._next(scene, position, aligned)


class KnobExpert(WaypointExpert):
    """Takes a stove's knob from above and turns it."""

    direction = 1.0

    def _plan(self, scene: LiberoScene) -> None:
        model, data = scene.model, scene.data
        body = int(model.jnt_bodyid[goal_joint(scene, self.goal_index)])
        geoms = np.flatnonzero((model.geom_bodyid == body) & (model.geom_contype > 0))
        tops = [data.geom_xpos[geom, 2] + _vertical_reach(model, data, int(geom)) for geom in geoms]
        knob = geoms[int(np.argmax(tops))]
        self._knob = np.array([*data.geom_xpos[knob][:2], max(tops) - KNOB_DEPTH])
        self._start = self._rotation.copy()

    def _next(self, scene: LiberoScene, position: _Vector, aligned: bool) -> tuple[_Vector, float]:
        if self._phase in ("approach", "descend", "grasp"):
            return self._grasp(position, self._knob, aligned)
        angle = self.direction * min(KNOB_TURN, 0.06 * self._steps_in_phase)
        self._rotation = turn_about_vertical(angle) @ self._start
        return self._hold, 1.0


class DragExpert(WaypointExpert):
    """Drags a thing with a rim over the table, with closed fingers against the rim from inside.

    A subclass sets at `_plan` what is dragged and says at `_way` how far it still has to go.
    """

    _thing: str
    """Name of what is dragged."""
    height = DRAG_HEIGHT
    """Height (m) of the fingertips over its origin."""
    radius = OUT_OF_PLATE
    """Distance (m) of the hand from its middle at which the fingers have slipped over the rim."""

    @abstractmethod
    def _way(self, scene: LiberoScene) -> _Vector:
        """From where it is to where it is dragged, [2] (m)."""

    def _next(self, scene: LiberoScene, position: _Vector, aligned: bool) -> tuple[_Vector, float]:
        thing, way = scene.body_position(self._thing), self._way(scene)
        direction = np.array([*(way / max(float(np.linalg.norm(way)), 1e-6)), 0.0])
        inside = thing + np.array([0.0, 0.0, self.height])
        if self._phase == "approach":
            target = inside + np.array([0.0, 0.0, 0.08])
            if np.linalg.norm(target - position) < 0.012:
                self._enter("descend")
            return target, 1.0
        if self._phase == "descend":
            if position[2] - inside[2] < 0.008:
                self._enter("drag")
            elif self._steps_in_phase > 25:
                self._enter("approach")
            return inside, 1.0
        ahead = float((position - thing) @ direction)
        if ahead > self.radius:
            self._enter("approach")
        return inside + (ahead + DRAG_LEAD) * direction, 1.0


class PlateExpert(DragExpert):
    """Drags a plate to a region."""

    def _plan(self, scene: LiberoScene) -> None:
        plate, region = scene.definition.goal[0].things
        self._thing, self._region = plate.name, region.site
        self._turn_along(np.array([1.0, 0.0, 0.0]))  # the hand is wide and would touch the drawers' handles

    def _way(self, scene: LiberoScene) -> _Vector:
        return np.asarray(scene.data.site_xpos[self._region] - scene.body_position(self._thing))[:2]


class _OutOfTheWay(DragExpert):
    """A bowl, away from where the drawer of a goal's region will be; `done` once it is there and the hand above it."""

    height = IN_BOWL
    radius = OUT_OF_BOWL

    def _plan(self, scene: LiberoScene) -> None:
        thing, region = scene.definition.goal[0].things
        self._thing = thing.name
        away = away_from_drawer(scene, self._thing, region.site)
        bowl = scene.body_position(self._thing)
        missing = CLEAR_OF_DRAWER - away @ (bowl - scene.data.site_xpos[region.site])
        self._end = (bowl + max(missing, 0.0) * away)[:2]
        self.done = missing < 0.0

    def _way(self, scene: LiberoScene) -> _Vector:
        return np.asarray(self._end - scene.body_position(self._thing)[:2])

    def _next(self, scene: LiberoScene, position: _Vector, aligned: bool) -> tuple[_Vector, float]:
        if self._phase == "drag" and (np.linalg.norm(self._way(scene)) < 0.01 or self._steps_in_phase > DRAG_STEPS):
            self._enter("leave")
            self._hold = position
        if self._phase == "leave":
            above = self._hold + np.array([0.0, 0.0, HOVER])
            self.done = bool(position[2] > above[2] - 0.03)
            return above, 1.0
        return super()._next(scene, position, aligned)


def away_from_drawer(scene: LiberoScene, name: str, region: int) -> _Vector:
    """Unit vector [3] along the width of the drawer with a region (a site), from the drawer to a thing beside it."""
    width: _Vector = scene.data.site_xmat[region].reshape(3, 3)[:, 2]
    away: _Vector = width * np.sign(width @ (scene.body_position(name) - scene.data.site_xpos[region]))
    return away


def goal_joint(scene: LiberoScene, goal_index: int) -> int:
    """The joint that a condition of the goal wants moved."""
    return scene.joint_at(scene.definition.goal[goal_index].things[0].joints[0])


def _facing(approach: _Vector, present: _Vector) -> _Vector:
    """The hand's rotation [3, 3] with its fingers pointing along `approach` [3] and closing in a vertical plane.

    Of the two that there are, the one nearer to the present rotation.
    """
    options = []
    upwards = np.array([0.0, 0.0, 1.0]) - approach[2] * approach
    for sign in (1.0, -1.0):
        fingers = sign * upwards / np.linalg.norm(upwards)
        options.append(np.stack([fingers, np.cross(approach, fingers), approach], axis=1))
    return max(options, key=lambda option: float(np.trace(option @ present.T)))


def _vertical_reach(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> float:
    """How far (m) a geom reaches above its centre."""
    half = model.geom_aabb[geom, 3:]
    return float(np.abs(data.geom_xmat[geom].reshape(3, 3)[2]) @ half)
