"""Scripted experts for libero_10: one condition of the goal after another, and again what did not stay fulfilled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, Expert, FloatArray, ManipulationEnvironment
from sim.embodiments import POSITION_SCALE
from sim.libero.goal_experts import DrawerExpert, KnobExpert, SurfaceExpert
from sim.libero.goals import Predicate
from sim.libero.object_experts import BasketExpert
from sim.libero.scene import LiberoScene
from sim.libero.tasks import LiberoTask
from sim.libero.waypoints import CARRY_HEIGHT, POSITION_GAIN, PlacingExpert, WaypointExpert, libero_scene

_Vector = NDArray[np.float64]

RETREAT_STEPS = 14
"""Control steps of moving up, fingers open, after each part."""

RETREAT_SPEED = 0.8
"""Action of moving up."""

LOW_HAND = 0.9
"""World height (m) of the hand at a reset below which the scene is the living room with its low table."""

LIVING_ROOM_CARRY = 0.66
"""World height (m) at which things are carried over the living room's low table."""

MUG_TOP = 0.105
"""Height (m) of a mug's rim over its origin."""

FINGERS_IN_MUG = 0.022
"""How far (m) below a mug's rim the fingertips close on its wall."""

MUG_WALLS = {"porcelain_mug_1": 0.057, "white_yellow_mug_1": -0.060, "red_coffee_mug_1": 0.057}
"""Mug -> where (m) along its own x axis its wall stands opposite to the handle."""

POT_KNOB = (0.0, -0.001, 0.076)
"""Where (m, in its own frame) the fingertips hold a moka pot: by the knob on its lid, so that it hangs upright."""

BESIDE = 0.045
"""Distance (m) from the middle of the stove at which each of two pots stands."""

BOOK_HEIGHT = 0.115
"""Height (m) of the fingertips over a standing book's origin."""

CADDY_FLOOR = -0.065
"""Height (m) of a book's origin in the caddy over the middle of the compartment's region."""

MOST_LOSSES = 2
"""How often a thing may slip before it is tried another way."""

PART_STEPS = 190
"""Control steps after which a part is given up, and whatever is not fulfilled tried anew."""

PUSH_AHEAD = 0.04
"""How far (m) beyond a drawer's handle the hand is sent that pushes it shut."""

BEFORE_DRAWER = 0.08
"""Distance (m) from a drawer's handle at which the hand turns towards it."""

PUSH_TILT = 0.8
"""Angle (rad) at which the fingers point down while they push."""


class TableBasketExpert(BasketExpert):
    """The basket stands on a table, which is where the thing stands."""

    def _floor(self, scene: LiberoScene, below: float) -> float:
        return float(self._holding_point(scene)[2]) - below


class MugExpert(PlacingExpert):
    """Holds a mug by its wall, opposite to the handle, and puts it onto a plate."""

    def _plan(self, scene: LiberoScene) -> None:
        thing, target = scene.definition.goal[self.goal_index].things
        self._thing, self._target = thing.name, target
        self._turn_along(scene.body_rotation(self._thing)[:, 0])
        self._offset = np.array([MUG_WALLS[self._thing], 0.0, MUG_TOP - FINGERS_IN_MUG])
        self._offset += self._generator.uniform(-0.002, 0.002, 3)
        self._carry = self.carry_height

    def _destination(self, scene: LiberoScene) -> _Vector:
        if self._target.site < 0:
            return scene.body_position(self._target.name)
        place: _Vector = scene.data.site_xpos[self._target.site].copy()
        return place


class PotExpert(SurfaceExpert):
    """Puts a moka pot onto the stove, held by its lid's knob."""

    beside = 0.0
    """Where (m) from the stove's middle, along the world's x axis."""

    def _plan(self, scene: LiberoScene) -> None:
        thing, self._target = scene.definition.goal[self.goal_index].things
        self._thing, self._inside, self._by_rim = thing.name, False, False
        self._turn_along(scene.body_rotation(self._thing)[:, 0])
        self._offset = np.array(POT_KNOB) + self._generator.uniform(-0.001, 0.001, 3)
        low, _ = scene.bounds(thing)
        self._origin_height = -float(low[2])
        self._carry = self.carry_height + POT_KNOB[2]

    def _destination(self, scene: LiberoScene) -> _Vector:
        place: _Vector = super()._destination(scene) + np.array([self.beside, 0.0, 0.0])
        return place


class NearPotExpert(PotExpert):
    """To the side of the stove that is nearer to the robot."""

    beside = -BESIDE


class FarPotExpert(PotExpert):
    """To the other side."""

    beside = BESIDE


class BookExpert(PlacingExpert):
    """Takes a standing book across its back, turns it as the compartment lies, and lets it down there."""

    def _plan(self, scene: LiberoScene) -> None:
        thing, region = scene.definition.goal[self.goal_index].things
        self._thing, self._region, self._thin = thing.name, region.site, int(np.argmin(region.size[:2]))
        self._turn_along(scene.body_rotation(self._thing)[:, 0])
        self._offset = np.array([0.0, -0.012, BOOK_HEIGHT]) + self._generator.uniform(-0.001, 0.001, 3)
        self._carry = self.carry_height + BOOK_HEIGHT

    def _enter(self, phase: str) -> None:
        super()._enter(phase)
        if phase == "carry":
            self._turn_along(self._across)

    def _next(self, scene: LiberoScene, position: _Vector, aligned: bool) -> tuple[_Vector, float]:
        self._across = scene.data.site_xmat[self._region].reshape(3, 3)[:, self._thin]
        target, gripper = super()._next(scene, position, aligned)
        if self._phase == "lower" and not aligned:
            self._phase = "carry"  # until it is turned as well
        return target, gripper

    def _destination(self, scene: LiberoScene) -> _Vector:
        place: _Vector = scene.data.site_xpos[self._region] + np.array([0.0, 0.0, CADDY_FLOOR])
        return place


class ShutDrawerExpert(DrawerExpert):
    """Pushes a drawer shut by its handle, with closed fingers that point at it and the flat hand level.

    An upright hand would touch the handles above, one on its side the table below.
    """

    tilt = PUSH_TILT

    def _plan(self, scene: LiberoScene) -> None:
        super()._plan(scene)
        present = self._rotation if self.upright is None else self.upright
        level = np.cross(-self._approach, [0.0, 0.0, 1.0])
        level *= np.sign(level @ present[:, 0]) / np.linalg.norm(level)
        self._rotation = np.stack([level, np.cross(-self._approach, level), -self._approach], axis=1)

    def _next(self, scene: LiberoScene, position: _Vector, aligned: bool) -> tuple[_Vector, float]:
        handle = scene.data.geom_xpos[self._handle]
        if self._phase == "approach":
            target = handle + BEFORE_DRAWER * self._approach
            if aligned and np.linalg.norm(target - position) < 0.015:
                self._enter("push")
            return target, 1.0
        return handle - PUSH_AHEAD * self._outwards, 1.0


class GoalByGoalExpert(Expert):
    """Fulfils the conditions of a goal in an order, each by an expert of its own.

    After each it lets go and moves up. What is not fulfilled then, in that order, is next, so that what was missed or
    undone is tried again.
    """

    def __init__(
        self, task: LiberoTask, seed: int, parts: Mapping[int, type[WaypointExpert]] | None = None, carry: float = 0.0
    ) -> None:
        """`parts`: condition of the goal -> who fulfils it, in order. `carry` (m) is the height to carry at.

        Without parts both follow from the goal and the scene (`parts_of`).
        """
        self._task, self._seed, self._carry = task, seed, carry
        self._parts = None if parts is None else dict(parts)

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Start a new episode from the environment's present state.

        Raises `EnvironmentRequestError` for a goal with a condition that nobody here fulfils.
        """
        position, self._upright = libero_scene(environment).end_effector_pose()
        if self._parts is None:
            self._parts = parts_of(libero_scene(environment).definition.goal, self._task)
            self._carry = LIVING_ROOM_CARRY if position[2] < LOW_HAND else CARRY_HEIGHT
        self.tried: dict[int, int] = {}
        """Condition -> how often its part was tried."""
        self._retreat_steps = self._part_steps = 0
        self._start_next(environment)

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        """The next action, float32 [7]."""
        scene = libero_scene(environment)
        self._part_steps += 1
        if self._retreat_steps == 0 and (self._done(scene) or self._hopeless()):
            self._retreat_steps = RETREAT_STEPS
            self._above, _ = scene.end_effector_pose()
        if self._retreat_steps == 0:
            return self._part.act(environment)
        self._retreat_steps -= 1
        if self._retreat_steps == 0:
            self._start_next(environment)
        position, _ = scene.end_effector_pose()
        action = np.zeros(7, dtype=np.float32)
        action[:2] = np.clip(POSITION_GAIN * (self._above - position)[:2] / POSITION_SCALE, -1.0, 1.0)
        action[2], action[6] = RETREAT_SPEED, -1.0
        return action

    def _done(self, scene: LiberoScene) -> bool:
        """Whether the present part is. A thing in the fingers is not there yet, whatever its condition says."""
        if isinstance(self._part, PlacingExpert):
            return self._part.let_go
        return scene.goal_predicates()[self._index]

    def _hopeless(self) -> bool:
        lost = isinstance(self._part, PlacingExpert) and self._part.losses >= MOST_LOSSES
        return lost or self._part_steps > PART_STEPS

    def _start_next(self, environment: ManipulationEnvironment) -> None:
        assert self._parts is not None  # since the reset
        holds = libero_scene(environment).goal_predicates()
        unmet = [index for index in self._parts if not holds[index]] or list(self._parts)
        self._index = unmet[0]
        tried = self.tried.get(self._index, 0)
        self._part = self._parts[self._index](self._task, self._seed + 1000 * tried)
        self._part.attempt, self.tried[self._index] = tried, tried + 1
        self._part.goal_index, self._part.upright, self._part.carry_height = self._index, self._upright, self._carry
        self._part.reset(environment)
        self._retreat_steps = self._part_steps = 0


def parts_of(goal: Sequence[Predicate], task: LiberoTask) -> dict[int, type[WaypointExpert]]:
    """Who fulfils which condition of a goal, in an order that undoes none: open, switch, put in, shut, put on.

    Raises `EnvironmentRequestError` for a condition that nobody here fulfils.
    """
    found: dict[int, type[WaypointExpert]] = {}
    for index in sorted(range(len(goal)), key=lambda index: ORDER.index(goal[index].name)):
        kind = part_for(goal[index])
        if kind is None:
            words = " ".join([goal[index].name, *(thing.name for thing in goal[index].things)])
            raise EnvironmentRequestError(
                f"there is no scripted expert for {task.suite} task {task.index} ({task.name}): nobody here does "
                f"({words}). Use a trained policy or recorded demonstrations."
            )
        found[index] = kind
    return found


def part_for(condition: Predicate) -> type[WaypointExpert] | None:
    """Who fulfils a condition; None for nobody."""
    name, first = condition.name, condition.things[0].name
    if name in ("open", "close"):  # a microwave's door turns
        drawer = "cabinet" in first
        return (DrawerExpert if name == "open" else ShutDrawerExpert) if drawer else None
    if name in ("turnon", "turnoff"):
        return KnobExpert if name == "turnon" else KnobBackExpert
    target = condition.things[1].name
    unknown = "frypan" in first or "book" in first or "microwave" in target or "shelf" in target
    if "book" in first and "caddy" in target:
        return BookExpert
    if unknown:
        return None
    if name == "in" and ("basket" in target or "tray" in target) and "bowl" not in first:
        return TableBasketExpert
    if first in MUG_WALLS:
        return MugExpert
    return PotExpert if "moka_pot" in first else SurfaceExpert


ORDER = ("open", "turnon", "turnoff", "in", "close", "on")
"""In which order conditions are fulfilled."""


class KnobBackExpert(KnobExpert):
    """Turns a stove's knob back."""

    direction = -1.0
