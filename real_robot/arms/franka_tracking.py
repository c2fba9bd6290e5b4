"""A Franka's hand led along the commands: an impedance controller whose goal moves from one command to the next.

The controller runs in franky, a thousand times a second, for as long as the arm is driven; its goal is moved from here
a hundred times a second. Motions that replace one another (`franky.CartesianMotion`, asynchronous) would do as well in
principle. Each begins with the speed and the acceleration that the arm says it was commanded, and with 20 of them a
second small errors in those add up: the emulated arm swings up within a second.
"""

from __future__ import annotations

import threading
import time
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.core.operational_space import matrix_to_rotation_vector, rotation_vector_to_matrix

Array = NDArray[np.float64]

EVERY = 0.01
"""Seconds between two goals."""
FARTHEST, FARTHEST_TURN = 0.03, 0.3
"""Metres and radians from its goal beyond which the hand is pulled no harder: what it touches feels at most 75 N by the
default stiffness."""


class HandTracking:
    """Leads the hand, from `start` to `end`, in a thread of its own."""

    def __init__(self, franky: ModuleType, robot: Any, stiffness: float, turn_stiffness: float, period: float) -> None:
        """`stiffness` is N/m and `turn_stiffness` N m/rad; `period` is the seconds until the next command."""
        self._franky, self._robot, self._period = franky, robot, period
        self._motion = franky.CartesianImpedanceTrackingMotion(
            translational_stiffness=stiffness,
            rotational_stiffness=turn_stiffness,
            translational_error_clip=np.full(3, FARTHEST),
            rotational_error_clip=np.full(3, FARTHEST_TURN),
        )
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._lead, name="franka", daemon=True)

    def start(self, pose: Array) -> None:
        """Begin, the hand at `pose` [4, 4]. Raises what franky raises."""
        self._came_from = self._goes_to = pose.copy()
        self._began = time.monotonic()
        self._robot.move(self._motion, asynchronous=True)
        self._thread.start()

    def go_to(self, pose: Array) -> None:
        """Lead the hand to `pose` [4, 4] within a period, from wherever it is led now."""
        with self._lock:
            self._came_from, self._goes_to, self._began = self._goal()[0], pose.copy(), time.monotonic()

    def rest(self) -> None:
        """Lead the hand no farther."""
        with self._lock:
            self._came_from = self._goes_to = self._goal()[0]

    def end(self) -> None:
        """Lead no more; the controller keeps its last goal until the arm is told to stop."""
        self._ended.set()
        self._thread.join()

    def _goal(self) -> tuple[Array, Array]:
        """Where the hand is led now [4, 4], and how fast (m/s and rad/s, 6)."""
        share = (time.monotonic() - self._began) / self._period
        if share >= 1.0:
            return self._goes_to, np.zeros(6)
        way = self._goes_to[:3, 3] - self._came_from[:3, 3]
        turn = matrix_to_rotation_vector(self._goes_to[:3, :3] @ self._came_from[:3, :3].T)
        goal = np.eye(4)
        goal[:3, 3] = self._came_from[:3, 3] + share * way
        goal[:3, :3] = rotation_vector_to_matrix(share * turn) @ self._came_from[:3, :3]
        return goal, np.concatenate([way, turn]) / self._period

    def _lead(self) -> None:
        franky = self._franky
        while not self._ended.wait(EVERY):
            with self._lock:
                goal, speed = self._goal()
            twist = franky.Twist(speed[:3], speed[3:])
            self._motion.set_reference(franky.CartesianReference(franky.Affine(goal), twist))
