"""A task's goal: LIBERO's predicates on the state of a simulation, and the flames that its stoves show.

What each predicate asks is what hf-libero's object states ask, comparison by comparison, so that success agrees at
every step; `sim.libero.build` reads bodies, geoms, sizes and thresholds off hf-libero's objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError

ARITY = {
    "true": 0,
    "false": 0,
    "on": 2,
    "in": 2,
    "up": 1,
    "open": 1,
    "close": 1,
    "turnon": 1,
    "turnoff": 1,
}
"""Predicate -> of how many objects or regions it speaks."""

Vector = NDArray[np.float64]

ON_TOP_DISTANCE = 0.03
"""Horizontal distance (m) of two objects' origins within which one is on the other."""

UNDER_HEIGHT = 0.10
"""Height (m) over a region's upper face up to which an object is on the region."""


@dataclass(frozen=True)
class Range:
    """Joint positions that count as open, closed, on or off: on one side of a threshold (rad or m)."""

    side: Literal["<", "<=", ">", ">="]
    threshold: float

    def holds(self, position: float) -> bool:
        """Whether a joint position is among them."""
        if self.side == "<":
            return position < self.threshold
        if self.side == "<=":
            return position <= self.threshold
        return position > self.threshold if self.side == ">" else position >= self.threshold


@dataclass(frozen=True)
class Thing:
    """An object, or a region of one, that a predicate speaks of."""

    name: str
    body: int = -1
    """Of an object; -1 for a region."""
    site: int = -1
    """Of a region; -1 for an object."""
    geoms: tuple[int, ...] = ()
    """What touches for it: an object's collision shapes; a region's are those of the object it belongs to."""
    region_of_object: bool = False
    """A region that belongs to an object, which must be touched to be on the region."""
    has_top: bool = False
    """A region that knows what is on it. On one that does not, everything is, as LIBERO has it."""
    size: tuple[float, ...] = ()
    """Half sizes (m) of a region."""
    joints: tuple[int, ...] = ()
    """Addresses in `qpos` of the joints that open, close or switch it."""
    ranges: tuple[tuple[str, Range], ...] = ()
    """What its joints' positions mean: for "open", "close", "turnon" and "turnoff", as far as it has them."""


@dataclass(frozen=True)
class Predicate:
    """One condition of a goal, e.g. ("on", (bowl, plate)): the bowl is on the plate."""

    name: str
    things: tuple[Thing, ...]

    def holds(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether it does in the present state. Raises `EnvironmentRequestError` for a predicate LIBERO has not."""
        first = self.things[0] if self.things else None
        if self.name in ("true", "false"):
            return self.name == "true"
        if self.name == "on" and first is not None:
            return _is_on(first, self.things[1], model, data)
        if self.name == "in" and first is not None:
            return _is_in(first, self.things[1], data)
        if self.name == "up" and first is not None:
            return bool(position_of(first, data)[2] >= 1.0)
        if self.name in ("open", "turnon", "close", "turnoff") and first is not None:
            wanted = dict(first.ranges).get(self.name)
            if wanted is not None:
                met = (wanted.holds(float(data.qpos[joint])) for joint in first.joints)
                return any(met) if self.name in ("open", "turnon") else all(met)
        raise EnvironmentRequestError(
            f"the goal ({self.name} {' '.join(thing.name for thing in self.things)}) cannot be judged here: "
            "predicates are in, on, up, open, close, turnon and turnoff, of objects that have what they ask for"
        )


@dataclass(frozen=True)
class Flame:
    """A site that is seen while a stove is on."""

    site: int
    joints: tuple[int, ...]
    lit: Range


def show_flames(flames: Sequence[Flame], model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Make flames visible or not by what their stoves' knobs say."""
    for flame in flames:
        lit = any(flame.lit.holds(float(data.qpos[joint])) for joint in flame.joints)
        rgba: Any = model.site_rgba
        if (rgba[flame.site, 3] > 0) != lit:
            rgba[flame.site, 3] = 1 - rgba[flame.site, 3]


def touching(first: Sequence[int], second: Sequence[int], model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    """Whether a geom of one set is in contact with one of the other."""
    members = np.zeros((2, model.ngeom), dtype=bool)
    members[0, list(first)], members[1, list(second)] = True, True
    pairs = data.contact.geom  # [contacts, 2]
    one, other = members[:, pairs[:, 0]], members[:, pairs[:, 1]]
    return bool(((one[0] & other[1]) | (one[1] & other[0])).any())


def _is_on(upper: Thing, lower: Thing, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    position = data.xpos[upper.body]
    if lower.site < 0:
        below = data.xpos[lower.body]
        return bool(
            below[2] <= position[2]
            and touching(lower.geoms, upper.geoms, model, data)
            and np.linalg.norm(below[:2] - position[:2]) < ON_TOP_DISTANCE
        )
    if not lower.has_top:
        return True
    size = np.array(lower.size)
    offset = data.site_xmat[lower.site].reshape(3, 3) @ (position - data.site_xpos[lower.site])
    inside = size[2] - 0.005 < offset[2] < size[2] + UNDER_HEIGHT and np.all(np.abs(offset[:2]) < size[:2])
    return bool(inside and (not lower.region_of_object or touching(lower.geoms, upper.geoms, model, data)))


def _is_in(content: Thing, container: Thing, data: mujoco.MjData) -> bool:
    if container.site < 0:
        raise EnvironmentRequestError(
            f"the goal (in {content.name} {container.name}) cannot be judged here: {container.name} is no region"
        )
    reach = np.abs(data.site_xmat[container.site].reshape(3, 3) @ np.array(container.size))
    centre, position = data.site_xpos[container.site], data.xpos[content.body]
    low, high = centre - reach, centre + reach
    low[2] -= 0.01
    return bool(np.all(position > low) and np.all(position < high))


def position_of(thing: Thing, data: mujoco.MjData) -> Vector:
    """World position [3] of an object or the middle of a region; a view that follows `data`."""
    position: Vector = data.xpos[thing.body] if thing.site < 0 else data.site_xpos[thing.site]
    return position
