"""What a LIBERO task's simulation is besides its MuJoCo model: indices, goal and flames; and a state to start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.core.robosuite_control import ArmIndices, ArmMemory
from sim.libero.goals import Flame, Predicate, Range, Thing


@dataclass(frozen=True)
class SceneDefinition:
    """Where a model keeps what stepping, looking and judging need."""

    arm: ArmIndices
    end_effector_body: int
    """Its quaternion is the orientation that LIBERO reports."""
    fingers: tuple[int, ...]
    """Addresses of the two finger positions in `qpos`."""
    substeps: int
    """Physics substeps of a control step."""
    bodies: Mapping[str, int]
    """Objects and fixtures by the names of the task's definition."""
    fixture_bodies: tuple[int, ...]
    """Bodies whose place in the model is drawn at each reset."""
    goal: tuple[Predicate, ...]
    flames: tuple[Flame, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SceneDefinition:
        """The definition that `as_json` described. Raises `KeyError` or `TypeError` when it is none."""
        return cls(
            arm=ArmIndices(**document["arm"]),
            end_effector_body=document["end_effector_body"],
            fingers=tuple(document["fingers"]),
            substeps=document["substeps"],
            bodies=dict(document["bodies"]),
            fixture_bodies=tuple(document["fixture_bodies"]),
            goal=tuple(
                Predicate(entry["name"], tuple(_thing(thing) for thing in entry["things"]))
                for entry in document["goal"]
            ),
            flames=tuple(
                Flame(entry["site"], tuple(entry["joints"]), Range(**entry["lit"])) for entry in document["flames"]
            ),
        )


@dataclass(frozen=True)
class SceneState:
    """A simulation between two control steps, to be gone on from to the bit."""

    physics: NDArray[np.float64]
    """MuJoCo's `mjSTATE_INTEGRATION`."""
    fixture_poses: NDArray[np.float64]
    """[fixtures, 7] positions and quaternions in the model."""
    site_rgba: NDArray[np.float32]
    """[sites, 4]"""
    arm: ArmMemory
    clock: tuple[float, bool]
    """Where the observation clock stands (`sim.libero.snapshot.ObservationClock.phase`)."""


def _thing(document: Mapping[str, Any]) -> Thing:
    fields = dict(document)
    for name in ("geoms", "size", "joints"):
        fields[name] = tuple(fields[name])
    fields["ranges"] = tuple((name, Range(**limits)) for name, limits in fields["ranges"])
    return Thing(**fields)
