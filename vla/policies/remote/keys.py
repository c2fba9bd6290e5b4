"""What openpi's examples call the parts of an observation: one preset for each of its robots.

A preset says how our observation is sent to a server of openpi's, and how a request of openpi's client is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sim.contract import Observation
from sim.embodiments import PANDA_EEF, Action, Camera, Embodiment, State
from vla.errors import ReflexError

PROMPT = "prompt"
SIDE = 224
"""Pixels a side of the pictures that openpi's models take."""


@dataclass(frozen=True)
class Preset:
    """The keys of one of openpi's robots, and the robot."""

    embodiment: Embodiment
    camera_keys: Mapping[str, str]
    """Camera of the embodiment -> where its picture is in the message."""
    state_keys: Mapping[str, int]
    """Where numbers of the state are -> how many, in the state's order."""
    chunk_horizon: int
    """Actions in a chunk of openpi's checkpoint for this robot."""
    execute_steps: int
    """How many of them openpi's example executes."""
    channels_first: bool = False
    """Pictures are [3, H, W] in a dictionary `images` instead of [H, W, 3]."""

    def write(self, observation: Observation) -> dict[str, Any]:
        """The request that asks a server of openpi's for a chunk after an observation of the embodiment."""
        pictures = {key: resize_with_padding(observation["images"][camera]) for camera, key in self.camera_keys.items()}
        ends = np.cumsum(list(self.state_keys.values()))[:-1]
        parts = np.split(np.asarray(observation["state"], np.float32), ends)
        message: dict[str, Any] = dict(zip(self.state_keys, parts, strict=True))
        if self.channels_first:
            message["images"] = {key: np.moveaxis(picture, -1, 0) for key, picture in pictures.items()}
        else:
            message |= pictures
        return {**message, PROMPT: observation["instruction"]}

    def read(self, message: Mapping[str, Any], picture: Callable[[str, Any], NDArray[np.uint8]]) -> Observation:
        """The observation in a request with these keys; `picture` checks one and turns it to [H, W, 3].

        A camera that the message lacks is left out. Raises `ReflexError` for missing or wrong numbers of the state.
        """
        pictures = message.get("images") if self.channels_first else message
        if not isinstance(pictures, Mapping):
            raise ReflexError("images is no dictionary of pictures by camera")
        return Observation(
            images={camera: picture(key, pictures[key]) for camera, key in self.camera_keys.items() if key in pictures},
            state=np.concatenate([numbers(key, message.get(key), size) for key, size in self.state_keys.items()]),
            instruction=text(PROMPT, message.get(PROMPT, "")),
        )


def numbers(key: str, value: Any, size: int | None = None) -> NDArray[np.float32]:
    """Finite numbers [S] of a request as float32. Raises `ReflexError` naming the key, also for another `size`."""
    if value is None:
        raise ReflexError(f"{key} is missing")
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of several lengths
        raise ReflexError(f"{key} must be numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise ReflexError(f"{key} must be numbers, and is a {type(value).__name__}")
    flat = array.astype(np.float32).reshape(-1)
    if size is not None and len(flat) != size:
        raise ReflexError(f"{key} must have {size} numbers, and has {len(flat)} (shape {list(array.shape)})")
    if not np.isfinite(flat).all():
        raise ReflexError(f"{key} holds NaN or infinity")
    return flat


def text(key: str, value: Any) -> str:
    """The text of a request. Raises `ReflexError` naming the key for anything else."""
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind == "U":
        value = value.item()
    if not isinstance(value, str):
        raise ReflexError(f"{key} must be text, and is {type(value).__name__}")
    return str(value)


def resize_with_padding(picture: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """A picture [H, W, 3] as [side, side, 3], its shape kept by black borders: `openpi_client.image_tools`."""
    height, width = picture.shape[:2]
    if (height, width) == (side, side):
        return picture
    ratio = max(width / side, height / side)
    inner = int(height / ratio), int(width / ratio)
    small = Image.fromarray(picture).resize((inner[1], inner[0]), resample=Image.Resampling.BILINEAR)
    padded = np.zeros((side, side, 3), np.uint8)
    top, left = max(0, int((side - inner[0]) / 2)), max(0, int((side - inner[1]) / 2))
    padded[top : top + inner[0], left : left + inner[1]] = np.asarray(small)
    return padded


def _joints(side: str) -> tuple[str, ...]:
    joints = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
    return tuple(f"{side}_{joint}" for joint in joints)


LIBERO = Preset(
    # The example turns LIBERO's raw pictures by 180 degrees; a suite's observations here are upright already.
    embodiment=PANDA_EEF.with_image_size(SIDE),
    camera_keys={"image": "observation/image", "wrist_image": "observation/wrist_image"},
    state_keys={"observation/state": 8},
    chunk_horizon=10,
    execute_steps=5,
)
DROID = Preset(
    embodiment=Embodiment(
        name="droid",
        cameras=(Camera("exterior_image_1_left", SIDE, SIDE), Camera("wrist_image_left", SIDE, SIDE)),
        state=State((*(f"joint_{number}" for number in range(1, 8)), "gripper"), ("rad",) * 7 + ("share closed",)),
        action=Action(
            names=(*(f"joint_{number}" for number in range(1, 8)), "gripper"),
            kind="velocity",
            low=(-1.0,) * 7 + (0.0,),
            high=(1.0,) * 8,
            gripper=7,
            gripper_open=0.0,
            stay=(0.0,) * 8,
        ),
        control_frequency=15,
    ),
    camera_keys={
        "exterior_image_1_left": "observation/exterior_image_1_left",
        "wrist_image_left": "observation/wrist_image_left",
    },
    state_keys={"observation/joint_position": 7, "observation/gripper_position": 1},
    chunk_horizon=10,
    execute_steps=8,
)
ALOHA = Preset(
    embodiment=Embodiment(
        name="aloha",
        cameras=tuple(Camera(f"cam_{name}", SIDE, SIDE) for name in ("high", "low", "left_wrist", "right_wrist")),
        state=State((*_joints("left"), *_joints("right"))),
        action=Action(names=(*_joints("left"), *_joints("right")), kind="joint_position"),
        control_frequency=50,
    ),
    camera_keys={f"cam_{name}": f"cam_{name}" for name in ("high", "low", "left_wrist", "right_wrist")},
    state_keys={"state": 14},
    chunk_horizon=50,
    execute_steps=25,
    channels_first=True,
)
PRESETS = {"libero": LIBERO, "droid": DROID, "aloha": ALOHA}
"""By the name that a setting calls them."""


def preset_of(message: Mapping[str, Any]) -> str | None:
    """The name of the preset whose keys a request has; None for none."""
    for name, preset in PRESETS.items():
        keys = {"images", PROMPT} if preset.channels_first else set(preset.camera_keys.values())
        if (keys <= set(message)) if preset.channels_first else (keys & set(message)):
            return name
    return None
