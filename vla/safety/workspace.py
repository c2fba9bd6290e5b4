"""Keeps the hand within its box and out of keep-out volumes: a control barrier function on a small quadratic program.

An action is admissible if the hand is inside at its positions and at all those of the fastest stop after it. So the
arm can always stop without the hand leaving (a backup barrier function: Gurriet et al. 2020, "A scalable safety
critical control framework for nonlinear systems"). An admissible action is not touched. For another one, the program

    min |q - wanted|^2   subject to   lowest <= q <= highest,   h(stop) + grad h . J D (q - q_0) >= 0

is solved, where h is the distance of the hand to a face or a volume at the worst pose of the stop, J the hand's
Jacobian there and D how far that pose moves when the next position does. It is linearised again at its answer, a few
times, and the answer is tried on the true kinematics. If none is found the arm brakes, which is known to be admissible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vla.errors import require_module
from vla.safety.limits import MotionLimits
from vla.safety.stopping import Array

ITERATIONS = 2
CLOSER = (0.3,)
"""Shares of the way from braking to the program's answer that are tried where the answer itself is outside."""
NEAR = 0.05
"""Metres: what is farther from the hand during the whole stop is left out of the program, not out of the trial."""
MARGIN = 1e-5
"""Metres by which the program aims inside: what the linearisation may be wrong by at its last iteration."""


class HandModel(Protocol):
    """Where a hand is. Both are pure functions of the positions, which are in the names and units of `MotionLimits`."""

    def position(self, positions: Array) -> Array:
        """Metres [3] in the robot's base frame, for positions [J]."""

    def jacobian(self, positions: Array) -> Array:
        """Metres per unit of each position, [3, J]."""


@dataclass(frozen=True)
class Volumes:
    """Where a hand may be, as C constraints that each have a signed distance: below 0 is forbidden."""

    names: tuple[str, ...]
    """[C] e.g. "workspace:z_low", "keep_out:0"."""
    faces: Array
    """[F, 4] of the workspace's faces: normal inwards, and its product with a point of the face."""
    low: Array
    """[K, 3] lowest corners of keep-out boxes."""
    high: Array
    """[K, 3] highest corners."""

    @classmethod
    def of(cls, limits: MotionLimits) -> Volumes | None:
        """Those of the limits; None where there are none."""
        faces, names = [], []
        if limits.workspace is not None:
            for sign, corner, end in ((1.0, limits.workspace.low, "low"), (-1.0, limits.workspace.high, "high")):
                for axis, name in enumerate("xyz"):
                    faces.append([*(sign * np.eye(3)[axis]), sign * corner[axis]])
                    names.append(f"workspace:{name}_{end}")
        names += [f"keep_out:{index}" for index in range(len(limits.keep_out))]
        if not names:
            return None
        return cls(
            names=tuple(names),
            faces=np.array(faces).reshape(-1, 4),
            low=np.array([box.low for box in limits.keep_out]).reshape(-1, 3),
            high=np.array([box.high for box in limits.keep_out]).reshape(-1, 3),
        )

    def distances(self, points: Array) -> Array:
        """Signed distances (m) [N, C] of points [N, 3]."""
        inside = points @ self.faces[:, :3].T - self.faces[:, 3]
        beyond = np.maximum(self.low[None] - points[:, None], points[:, None] - self.high[None])
        outside = np.sqrt(np.square(np.maximum(beyond, 0.0)).sum(axis=2))
        return np.concatenate([inside, outside + np.minimum(beyond.max(axis=2, initial=-np.inf), 0.0)], axis=1)

    def gradient(self, constraint: int, point: Array) -> Array:
        """The direction [3] in which that constraint's distance grows fastest at a point [3]."""
        if constraint < len(self.faces):
            normal: Array = self.faces[constraint, :3]
            return normal
        low, high = self.low[constraint - len(self.faces)], self.high[constraint - len(self.faces)]
        beyond, towards = np.maximum(low - point, point - high), np.where(point < 0.5 * (low + high), -1.0, 1.0)
        if beyond.max() <= 0.0:
            nearest_face: Array = np.eye(3)[int(beyond.argmax())] * towards
            return nearest_face
        away: Array = np.maximum(beyond, 0.0) * towards
        return away / np.linalg.norm(away)


@dataclass(frozen=True)
class Stop:
    """The positions of the next command and of the fastest stop after it, and where they bring the hand."""

    path: Array
    """[N, J]"""
    points: Array
    """[N, 3] m."""
    distances: Array
    """[N, C] m."""

    @property
    def clearance(self) -> float:
        """The least distance (m)."""
        return float(self.distances.min())


def make_stop(path: Array, hand: HandModel, volumes: Volumes) -> Stop:
    """The hand along a path [N, J]."""
    points = np.array([hand.position(row) for row in path])
    return Stop(path, points, volumes.distances(points))


def violated(stop: Stop, volumes: Volumes) -> tuple[str, ...]:
    """Names of the constraints that a stop breaks."""
    return tuple(volumes.names[index] for index in np.flatnonzero(stop.distances.min(axis=0) < 0.0))


def keep_inside(
    stop: Stop,
    braking: Array,
    bounds: tuple[Array, Array],
    path_after: Callable[[Array], Array],
    floor: float,
    hand: HandModel,
    volumes: Volumes,
) -> Array | None:
    """The positions [J] nearest to those of `stop` that keep the hand inside, or None where none is found.

    `braking` [J], those of `stop` and the answer lie within `bounds` ([J], [J]). `path_after` gives the positions
    [N, J] of a command and of the fastest stop after it. `floor` (m) is the clearance that the answer must have: 0, or
    that of braking now where it is already below 0.
    """
    wanted = stop.path[0]
    ends = (path_after(bounds[0]), path_after(bounds[1]))
    answer = wanted
    for _ in range(ITERATIONS):
        rows, least = _linearise(stop, ends, bounds, floor, hand, volumes)
        solution = _solve(wanted, bounds, rows, least)
        if solution is None:
            break
        answer = solution
        stop = make_stop(path_after(answer), hand, volumes)
        if stop.clearance >= floor:
            return answer
    # In a corner the program may go back and forth, or find nothing. Closer to braking, something is often inside.
    for share in CLOSER:
        blend: Array = braking + share * (answer - braking)
        if make_stop(path_after(blend), hand, volumes).clearance >= floor:
            return blend
    return None


def _linearise(
    stop: Stop, ends: tuple[Array, Array], bounds: tuple[Array, Array], floor: float, hand: HandModel, volumes: Volumes
) -> tuple[Array, Array]:
    """Rows [C, J] and least values [C] of the constraints on the next positions, about those of `stop`.

    `ends` are the paths ([N, J], [N, J]) of the stops after both ends of the bounds.
    """
    lower, upper = bounds
    span = np.where(upper > lower, upper - lower, 1.0)
    rows, least, jacobians = [], [], {}
    for constraint in np.flatnonzero(stop.distances.min(axis=0) < NEAR).tolist():
        row = int(stop.distances[:, constraint].argmin())
        if row not in jacobians:
            moves = np.where(upper > lower, (_row(ends[1], row) - _row(ends[0], row)) / span, 1.0)
            jacobians[row] = hand.jacobian(stop.path[row]) * moves
        normal = volumes.gradient(constraint, stop.points[row]) @ jacobians[row]
        size = float(np.linalg.norm(normal))
        if size > 1e-9:  # else no joint moves the hand towards or away from it
            missing = floor + MARGIN - float(stop.distances[row, constraint])
            rows.append(normal / size)
            least.append(missing / size + float(rows[-1] @ stop.path[0]))
    return np.array(rows).reshape(-1, len(lower)), np.array(least)


def _row(path: Array, row: int) -> Array:
    """The positions [J] of a row of a path; those at rest beyond the last."""
    positions: Array = path[min(row, len(path) - 1)]
    return positions


def _solve(wanted: Array, bounds: tuple[Array, Array], rows: Array, least: Array) -> Array | None:
    """The positions nearest to `wanted` within bounds and with rows @ positions >= least; None where there are none."""
    # As changes of `wanted`, shares of the widest interval: numbers near 1, whatever the unit.
    scale = max(float((bounds[1] - bounds[0]).max()), np.finfo(float).tiny)
    lower = np.concatenate([(bounds[0] - wanted) / scale, (least - rows @ wanted) / scale])
    upper = np.concatenate([(bounds[1] - wanted) / scale, np.full(len(rows), 1e30)])
    change, _, flag, _ = _solver().solve(
        np.eye(len(wanted)), np.zeros(len(wanted)), rows, upper, lower, np.zeros(len(lower), dtype=np.int32),
        primal_tol=1e-9,
    )  # fmt: skip
    if flag <= 0:
        return None
    answer: NDArray[np.float64] = np.clip(wanted + scale * np.asarray(change), bounds[0], bounds[1])
    return answer


@cache
def _solver() -> Any:
    return require_module("daqp", "a workspace or keep-out volume", "pip install 'reflex-vla[robots]'")
