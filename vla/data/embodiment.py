"""What robot a LeRobotDataset is of: which of its features are cameras, state and action, and what they mean.

`info.json` says names and shapes only. What an action means (kind, limits, gripper) is known for datasets written here,
which keep their whole embodiment beside it, and for robots whose names leave no doubt.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sim.embodiments import PANDA_EEF, Action, Camera, Embodiment, State
from vla.data import lerobot_keys as keys
from vla.errors import ReflexError
from vla.run.files import read_json_object

STATE_KEYS = (keys.STATE, "state")
"""Where the state is, in order of preference: LeRobot's own key, then openpi's."""
ACTION_KEYS = (keys.ACTION, "actions")
KNOWN = (PANDA_EEF,)
"""Robots that a dataset is of when its robot type and every name of state and action are theirs."""


@dataclass(frozen=True)
class CameraFeature:
    """One camera of a dataset."""

    name: str
    key: str
    """Its feature in `info.json`, which is a column or a folder of videos."""
    dtype: Literal["video", "image"]
    height: int
    width: int


@dataclass(frozen=True)
class DatasetFeatures:
    """The features of a dataset that are read."""

    cameras: dict[str, CameraFeature]
    """By name, in the order of `info.json`."""
    state: str | None
    """Feature of the state; None for a dataset without."""
    action: str


def find_features(features: Mapping[str, Any], path: Path) -> DatasetFeatures:
    """Which features are cameras, state and action; depth maps and everything else are passed over.

    Raises `ReflexError` naming `path`, the info.json they are of, when there is no action or a shape cannot be read.
    """
    action = next((key for key in ACTION_KEYS if key in features), None)
    if action is None:
        raise ReflexError(
            f"{path} has no feature {keys.ACTION!r}, only {', '.join(sorted(features))}; "
            f"name the column with the robot's commands {keys.ACTION!r}"
        )
    state = next((key for key in STATE_KEYS if key in features), None)
    for key in filter(None, (state, action)):
        shape = _shape(features[key])
        if len(shape) != 1 or shape[0] < 1:
            raise ReflexError(f"{path} gives {key} the shape {shape}; a vector such as [7] is needed")
    pictures = [key for key in features if _is_camera(features[key])]
    names = _camera_names(pictures)
    cameras = {name: _camera(name, key, features[key]) for key, name in zip(pictures, names, strict=True)}
    return DatasetFeatures(cameras, state, action)


def _shape(feature: Any) -> list[int]:
    """The shape of a feature; empty for what is none: others write features of their own."""
    shape = feature.get("shape") if isinstance(feature, Mapping) else None
    if not isinstance(shape, list) or not all(type(side) is int and side > 0 for side in shape):
        return []
    return shape


def _is_camera(feature: Any) -> bool:
    """Pictures of three channels, other than depth maps."""
    shape = _shape(feature)
    if len(shape) != 3 or 3 not in (shape[0], shape[2]) or feature.get("dtype") not in ("video", "image"):
        return False
    info = feature.get("info") or feature.get("video_info") or {}
    return not (isinstance(info, Mapping) and (info.get("video.is_depth_map") or info.get("is_depth_map")))


def _camera_names(features: list[str]) -> list[str]:
    """Names of the cameras: their keys without LeRobot's prefix, or LIBERO's two by what they show."""
    short = [key.removeprefix(keys.CAMERA_PREFIX).removeprefix("observation.") for key in features]
    count = Counter(short)
    names = [name if count[name] == 1 else key for name, key in zip(short, features, strict=True)]
    if set(names) == set(keys.LIBERO_CAMERAS.values()):
        here = {theirs: ours for ours, theirs in keys.LIBERO_CAMERAS.items()}
        names = [here[name] for name in names]
    return names


def _camera(name: str, key: str, feature: Mapping[str, Any]) -> CameraFeature:
    shape, axes = _shape(feature), feature.get("names")
    says_first = isinstance(axes, list) and bool(axes) and str(axes[0]).startswith("c")
    # Where shape and names disagree, or there are no names, the axis that has three entries is the channels'.
    channels_first = shape[0] == 3 and (says_first or shape[2] != 3)
    height, width = shape[1:] if channels_first else shape[:2]
    return CameraFeature(name, key, feature["dtype"], height, width)


def infer_embodiment(features: Mapping[str, Any], path: Path, robot: str, fps: float) -> Embodiment:
    """The robot as `info.json` describes it; an action of unknown kind and without limits, unless it is a known robot.

    Raises `ReflexError` as `find_features` does, and for a rate that is none.
    """
    found = find_features(features, path)
    state = () if found.state is None else _names(features[found.state], "state")
    action = _names(features[found.action], "action")
    cameras = tuple(Camera(camera.name, camera.height, camera.width) for camera in found.cameras.values())
    felt, meaning = State(state), Action(action, "unknown")
    for known in KNOWN:
        if (robot, state, action) == (known.name, known.state.names, known.action.names):
            felt, meaning = known.state, known.action
    try:
        return Embodiment(robot, cameras, felt, meaning, fps)
    except ValueError as error:
        raise ReflexError(f"{path} describes no robot: {error}; restore this file") from error


def read_embodiment(root: Path, inferred: Embodiment) -> Embodiment:
    """The embodiment that was written with a dataset, as far as it still agrees with what its `info.json` says now.

    LeRobot's tools take cameras away, rename columns and change rates without knowing of our file.
    Raises `ReflexError` when our file is damaged.
    """
    path = root / keys.EMBODIMENT_PATH
    if not path.exists():
        return inferred
    try:
        written = Embodiment.from_dict(read_json_object(path, "restore this file, or delete it"))
    except ValueError as error:
        raise ReflexError(f"{path} cannot be used: {error}; restore this file, or delete it") from error
    return dataclasses.replace(
        inferred,
        state=written.state if written.state.names == inferred.state.names else inferred.state,
        action=written.action if written.action.names == inferred.action.names else inferred.action,
    )


def _names(feature: Mapping[str, Any], word: str) -> tuple[str, ...]:
    """One name for each number; made up ("action_0") where a dataset has none, or not one for each."""
    size = int(feature["shape"][0])
    names = _flatten(feature.get("names"))
    return tuple(names) if len(names) == size else tuple(f"{word}_{index}" for index in range(size))


def _flatten(names: Any) -> list[str]:
    """Names as LeRobot's datasets have them: a list, lists by group ("motors"), or numbers by name."""
    if isinstance(names, str):
        return [names]
    if isinstance(names, Mapping):
        if names and all(isinstance(value, int) for value in names.values()):
            return [str(name) for name, _ in sorted(names.items(), key=lambda entry: int(entry[1]))]
        names = list(names.values())
    if not isinstance(names, list):
        return []
    return [name for part in names for name in _flatten(part)]
