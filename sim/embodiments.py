"""What a robot sees, feels and can be told: the shapes, names and units that everything else works from.

A suite says which embodiment its environments have. A dataset has one, read from its own description
(`vla.data.embodiment`). A policy is made for one and keeps it in its folder. Nothing in between knows a particular
robot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

ActionKind = Literal["end_effector_delta", "joint_position", "joint_delta", "velocity", "unknown"]
"""What an action commands. Deltas and velocities are shares of the largest command, in [-1, 1]."""


@dataclass(frozen=True)
class Camera:
    """One camera."""

    name: str
    height: int
    """Pixels."""
    width: int
    """Pixels."""


@dataclass(frozen=True)
class State:
    """Proprioception: the numbers a robot feels."""

    names: tuple[str, ...]
    units: tuple[str, ...] = ()
    """One for each number ("m", "rad", ...); empty where nobody says."""

    @property
    def size(self) -> int:
        """S: how many numbers."""
        return len(self.names)


@dataclass(frozen=True)
class Action:
    """What a robot can be told in one control step."""

    names: tuple[str, ...]
    kind: ActionKind
    low: tuple[float, ...] = ()
    """Smallest command of each number; empty where no limits are known."""
    high: tuple[float, ...] = ()
    """Largest command of each number; empty where no limits are known."""
    units: tuple[str, ...] = ()
    """One for each number; empty where nobody says, or for shares of the largest command."""
    gripper: int | None = None
    """Which number is the gripper's; None for a robot without, or where nobody says."""
    gripper_closed: float = 1.0
    """The gripper's command that closes it."""
    gripper_open: float = -1.0
    """The gripper's command that opens it."""
    stay: tuple[float, ...] | None = None
    """The command that keeps the robot where it is; None where it depends on where that is (positions)."""

    @property
    def size(self) -> int:
        """A: how many numbers."""
        return len(self.names)

    @property
    def is_normalised(self) -> bool:
        """Whether commands are shares of the largest one, in [-1, 1]."""
        return self.kind in ("end_effector_delta", "joint_delta", "velocity")

    def clip(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Commands [..., A] as float32 within the limits, unchanged where none are known."""
        array = np.asarray(values, dtype=np.float32)
        if not self.low:
            return array
        clipped: NDArray[np.float32] = np.clip(array, np.array(self.low, np.float32), np.array(self.high, np.float32))
        return clipped


@dataclass(frozen=True)
class Embodiment:
    """A robot with its cameras, its state, its action and the rate at which it is told something."""

    name: str
    cameras: tuple[Camera, ...]
    state: State
    action: Action
    control_frequency: float
    """Control steps per second."""

    def __post_init__(self) -> None:
        """Check that everything fits together. Raises `ValueError` naming the field."""
        names = [camera.name for camera in self.cameras]
        if len(set(names)) != len(names):
            raise ValueError(f"embodiment {self.name}: two cameras have one name, among {', '.join(names)}")
        if not self.control_frequency > 0:
            raise ValueError(f"embodiment {self.name}: control_frequency {self.control_frequency} must be above 0")
        size = self.action.size
        for field in ("low", "high", "units", "stay"):
            values = getattr(self.action, field)
            if values and len(values) != size:
                raise ValueError(f"embodiment {self.name}: action.{field} has {len(values)} numbers, not {size}")
        if bool(self.action.low) != bool(self.action.high):
            raise ValueError(f"embodiment {self.name}: give action.low and action.high, or neither")
        if self.action.gripper is not None and not 0 <= self.action.gripper < size:
            raise ValueError(f"embodiment {self.name}: action.gripper {self.action.gripper} is none of {size} numbers")
        if self.action.kind not in get_args(ActionKind):
            raise ValueError(f"embodiment {self.name}: action.kind {self.action.kind!r} is none of the known kinds")

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras, in order."""
        return tuple(camera.name for camera in self.cameras)

    def camera(self, name: str) -> Camera:
        """The camera of that name. Raises `KeyError` naming the known ones."""
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise KeyError(f"no camera {name!r}; {self.name} has {', '.join(self.camera_names) or 'none'}")

    def with_image_size(self, size: int | None) -> Embodiment:
        """The same robot with square pictures of `size` pixels; None leaves the cameras as they are."""
        if size is None:
            return self
        return dataclasses.replace(self, cameras=tuple(Camera(camera.name, size, size) for camera in self.cameras))

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame of every camera."""
        return sum(3 * camera.height * camera.width for camera in self.cameras)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Embodiment:
        """Inverse of `to_dict`. Raises `ValueError` naming what is missing or wrong."""
        try:
            return cls(
                name=str(values["name"]),
                cameras=tuple(Camera(**camera) for camera in values["cameras"]),
                state=State(**_tuples(values["state"])),
                action=Action(**_tuples(values["action"])),
                control_frequency=float(values["control_frequency"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the description of an embodiment lacks or garbles {error}") from error

    def describe(self) -> str:
        """One line for messages: cameras with sizes, lengths of state and action, rate."""
        cameras = ", ".join(f"{camera.name} {camera.height}x{camera.width}" for camera in self.cameras) or "no camera"
        return (
            f"{self.name}: {cameras}; state of {self.state.size}; action of {self.action.size} "
            f"({self.action.kind.replace('_', ' ')}); {self.control_frequency:g} Hz"
        )


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


POSITION_SCALE = 0.05
"""Metres that a full-scale position command of `PANDA_EEF` moves the hand's goal."""

ROTATION_SCALE = 0.5
"""Radians that a full-scale rotation command of `PANDA_EEF` turns the hand's goal."""

PANDA_EEF = Embodiment(
    name="panda",
    cameras=(Camera("image", 64, 64), Camera("wrist_image", 64, 64)),
    state=State(
        names=("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_left", "finger_right"),
        units=("m", "m", "m", "rad", "rad", "rad", "m", "m"),
    ),
    action=Action(
        names=("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "gripper"),
        kind="end_effector_delta",
        low=(-1.0,) * 7,
        high=(1.0,) * 7,
        gripper=6,
        stay=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    ),
    control_frequency=20,
)
"""A Franka Panda told how to move its hand: what the tabletop, LIBERO and robosuite suites use.

State: position of the hand (m, 3), axis-angle orientation (rad, 3), positions of both fingers (m, 2). Action: change of
the hand's position and orientation as shares of the largest command, and the gripper (-1 open, +1 close)."""
