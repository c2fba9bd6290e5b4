"""How far along its goal an episode is, from the true state: for audits of rewards, never for training.

A goal's predicates alone say 0 until the last moment. Between, a thing counts as far as the hand is at it and as far as
it was brought to where it belongs, a drawer or knob as far as it was moved. The tabletop's tasks are measured alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sim.libero.goals import Predicate, Thing, position_of
from sim.libero.scene import LiberoScene

REACH = 0.25
"""What a hand at the thing counts."""

MOVED = 0.65
"""What a thing counts that is where it belongs, or a joint that is, beside the hand; the rest is letting go."""

REACH_SCALE = 0.3
"""Distance (m) of the hand from which on nearing counts."""

SHORTEST_WAY = 0.05
"""Least distance (m) that a thing's way counts as."""

Measure = Callable[[LiberoScene], float]
"""How far a scene is, in [0, 1]."""


class GoalProgress:
    """Progress in [0, 1] since the moment it was made: conditions that hold, and a share of the one furthest along."""

    def __init__(self, scene: LiberoScene) -> None:
        self._scene = scene
        self._measures = [_measure(predicate, scene) for predicate in scene.definition.goal]

    def __call__(self, holds: Sequence[bool]) -> float:
        """`holds` says of each condition whether it does now."""
        open_ones = [measure(self._scene) for measure, held in zip(self._measures, holds, strict=True) if not held]
        if not open_ones:
            return 1.0
        return (sum(holds) + max(open_ones)) / len(holds)


def _measure(predicate: Predicate, scene: LiberoScene) -> Measure:
    things = predicate.things
    if predicate.name in ("on", "in"):
        return _placing(things[0], things[1], scene)
    if predicate.name in ("open", "close", "turnon", "turnoff"):
        return _moving(predicate.name, things[0], scene)
    if predicate.name == "up":
        return _lifting(things[0], scene)
    return lambda scene: 0.0


def _placing(thing: Thing, target: Thing, scene: LiberoScene) -> Measure:
    whole = max(_apart(thing, target, scene), SHORTEST_WAY)
    return lambda scene: (
        REACH * _reached(position_of(thing, scene.data), scene)
        + MOVED * _share(1.0 - _apart(thing, target, scene) / whole)
    )


def _moving(name: str, thing: Thing, scene: LiberoScene) -> Measure:
    wanted, starts = dict(thing.ranges)[name].threshold, [float(scene.data.qpos[joint]) for joint in thing.joints]
    joints = [scene.joint_at(address) for address in thing.joints]
    together = max if name in ("open", "turnon") else min

    def measure(scene: LiberoScene) -> float:
        moved = [
            _share((float(scene.data.qpos[joint]) - start) / (wanted - start)) if wanted != start else 1.0
            for joint, start in zip(thing.joints, starts, strict=True)
        ]
        reached = max(_reached(scene.data.xanchor[joint], scene) for joint in joints)
        return REACH * reached + MOVED * together(moved)

    return measure


def _lifting(thing: Thing, scene: LiberoScene) -> Measure:
    start = float(position_of(thing, scene.data)[2])
    return lambda scene: (
        REACH * _reached(position_of(thing, scene.data), scene)
        + MOVED * _share((float(position_of(thing, scene.data)[2]) - start) / max(1.0 - start, SHORTEST_WAY))
    )


def _apart(thing: Thing, target: Thing, scene: LiberoScene) -> float:
    """Horizontally, m."""
    return float(np.linalg.norm((position_of(thing, scene.data) - position_of(target, scene.data))[:2]))


def _reached(place: np.ndarray, scene: LiberoScene) -> float:
    hand, _ = scene.end_effector_pose()
    return _share(1.0 - float(np.linalg.norm(hand - place)) / REACH_SCALE)


def _share(value: float) -> float:
    return float(min(max(value, 0.0), 1.0))
