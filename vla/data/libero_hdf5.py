"""Reads LIBERO's own demonstration files, `<task>_demo.hdf5`, as its authors publish them.

A file holds one task. What LIBERO's recorder does differently from every other dataset here, and what is put right:

- Pictures are stored as OpenGL hands them out, bottom row first, and are turned by 180 degrees here, as evaluations do.
- Observation `t` was taken *after* action `t`, while state `t` of the simulator is the one before it. Here observation
  `t - 1` goes with action `t`, so that the first action, which has none, is left out of what was recorded.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import PANDA_EEF
from vla.errors import ReflexError, require_module

SUFFIX = "_demo.hdf5"
INSTALL = "run: pip install h5py (or make libero)"


@dataclass(frozen=True)
class RecordedDemonstration:
    """One demonstration as it was recorded, T actions long."""

    actions: NDArray[np.float32]
    """[T, 7]"""
    simulator_states: NDArray[np.float64]
    """[T, 1 + nq + nv] time, positions and velocities before each action."""
    model_xml: str
    """The scene; its fixtures were placed for this demonstration."""
    images: NDArray[np.uint8]
    """[T, H, W, 3] third-person pictures, upright, *after* each action."""
    wrist_images: NDArray[np.uint8]
    """[T, H, W, 3] wrist pictures, likewise."""
    robot_states: NDArray[np.float32]
    """[T, 8] end-effector position, axis-angle, finger positions, after each action."""


def demonstration_files(path: Path) -> list[Path]:
    """The files to read: `path` itself, or those of a folder, in order. Raises `ReflexError` when there are none."""
    if path.is_file():
        return [path]
    files = sorted(path.glob(f"*{SUFFIX}"))
    if not files:
        raise ReflexError(
            f"there is no LIBERO demonstration in {path}; give a file <task>{SUFFIX}, or a folder that holds some"
        )
    return files


def task_name(path: Path) -> str:
    """The task a file demonstrates: its name without `_demo.hdf5`."""
    return path.name.removesuffix(SUFFIX).removesuffix(path.suffix)


def demonstration_names(path: Path) -> list[str]:
    """The demonstrations of a file in the order of their numbers. Raises `ReflexError` when it cannot be read."""
    with _opened(path) as data:
        return sorted((name for name in data if name.startswith("demo_")), key=lambda name: int(name.split("_")[1]))


def read_demonstration(path: Path, name: str) -> RecordedDemonstration:
    """Read one. Raises `ReflexError` naming what is missing, misshapen or not finite."""
    with _opened(path) as data:
        group = data[name]
        observations = group["obs"]
        convention = str(data.attrs.get("macros_image_convention", "opengl"))
        if convention not in ("opengl", "opencv"):
            raise ReflexError(f"{path} stores pictures in the unknown convention {convention!r}")
        rows = slice(None, None, -1 if convention == "opengl" else 1)
        demonstration = RecordedDemonstration(
            actions=group["actions"][()].astype(np.float32),
            simulator_states=group["states"][()].astype(np.float64),
            model_xml=str(group.attrs["model_file"]),
            images=np.ascontiguousarray(observations["agentview_rgb"][()][:, rows, ::-1]),
            wrist_images=np.ascontiguousarray(observations["eye_in_hand_rgb"][()][:, rows, ::-1]),
            robot_states=np.concatenate(
                [observations["ee_states"][()], observations["gripper_states"][()]], axis=1
            ).astype(np.float32),
        )
    _check(path, name, demonstration)
    return demonstration


def _check(path: Path, name: str, demonstration: RecordedDemonstration) -> None:
    length = len(demonstration.actions)
    if length < 2:
        raise ReflexError(f"{path} has {length} actions in {name}; at least two are needed")
    size = demonstration.images.shape[1:2] * 2
    for field, shape in {
        "actions": (length, PANDA_EEF.action.size),
        "simulator_states": (length, *demonstration.simulator_states.shape[1:2]),
        "images": (length, *size, 3),
        "wrist_images": (length, *size, 3),
        "robot_states": (length, PANDA_EEF.state.size),
    }.items():
        values: NDArray[Any] = getattr(demonstration, field)
        if values.shape != shape:
            raise ReflexError(f"{path} has {field} of shape {values.shape} in {name} where {shape} is needed")
        if not np.isfinite(values).all():
            raise ReflexError(f"{path} has a value in the {field} of {name} that is not finite; leave that file out")


def fixture_poses(model_xml: str, bodies: Sequence[str]) -> NDArray[np.float64]:
    """Position and unit quaternion [n, 7] of bodies of a scene in MuJoCo's XML.

    Raises `ReflexError` when the scene cannot be read or lacks one.
    """
    try:
        found = {body.get("name"): body for body in ElementTree.fromstring(model_xml).iter("body")}
        poses = np.zeros((len(bodies), 7))
        for row, name in enumerate(bodies):
            if name not in found:
                raise ReflexError(f"the recorded scene has no body {name!r}; it is of another version of LIBERO")
            poses[row, :3] = np.array(found[name].get("pos", "0 0 0").split(), dtype=np.float64)
            quaternion = np.array(found[name].get("quat", "1 0 0 0").split(), dtype=np.float64)
            poses[row, 3:] = quaternion / np.linalg.norm(quaternion)
    except (ElementTree.ParseError, ValueError) as error:
        raise ReflexError(f"the recorded scene cannot be read ({error})") from error
    return poses


def without_idle_steps(actions: NDArray[np.float32], threshold: float = 1e-4) -> NDArray[np.float32]:
    """The actions [T, 7] less those that move nothing: no motion above `threshold`, and the gripper as before.

    Demonstrators hesitate; policies trained on such steps learn to stand still (Kim et al., "OpenVLA", 2024, who drop
    them by this rule). The first action is judged by its motion alone.
    """
    moves = np.linalg.norm(actions[:, :6], axis=1) >= threshold
    kept: list[int] = []
    for step, action in enumerate(actions):
        if moves[step] or (kept and action[6] != actions[kept[-1], 6]):
            kept.append(step)
    return actions[kept]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The group `data` of a file; whatever goes wrong with it becomes a `ReflexError`."""
    h5py: Any = require_module("h5py", "reading LIBERO's demonstrations", INSTALL)
    try:
        with h5py.File(path, "r") as file:
            yield file["data"]
    except FileNotFoundError as error:
        raise ReflexError(f"there is no file {path}") from error
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ReflexError(
            f"{path} cannot be read ({error}); it is damaged or not a LIBERO demonstration file"
        ) from error
