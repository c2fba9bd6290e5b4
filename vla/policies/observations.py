"""One observation as users hold it: this project's nested one, or a flat mapping with a LeRobot dataset's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import Observation, stack_observations
from vla.data.camera_names import find_camera
from vla.data.lerobot_keys import CAMERA_PREFIX, STATE
from vla.errors import ReflexError

if TYPE_CHECKING:  # the protocol names what this file reads
    from vla.policies.protocol import Policy

TASK_KEY = "task"


def as_observation(values: Observation | Mapping[str, Any], cameras: Sequence[str] = ()) -> Observation:
    """The nested observation of either form; `cameras` are the names that are looked for.

    A flat one has `observation.images.<camera>`, `observation.state` and `task`, as arrays or tensors, with or without
    a leading batch axis of 1. Pictures may be uint8 [H, W, 3] or, as LeRobot's own dataset gives them, floating-point
    [3, H, W] in [0, 1].

    Raises:
        ReflexError: a key is missing, or a picture is of another shape or type.
    """
    given: Mapping[str, Any] = values
    if "images" in given:
        return Observation(images=given["images"], state=given["state"], instruction=given["instruction"])
    images = {
        find_camera(key, cameras) or key.removeprefix(CAMERA_PREFIX): as_picture(key, value)
        for key, value in given.items()
        if key.startswith(CAMERA_PREFIX)
    }
    if not images and STATE not in given:
        raise ReflexError(
            f"an observation has images, state and instruction, or {CAMERA_PREFIX}<camera>, {STATE} and {TASK_KEY}; "
            f"this one has {', '.join(map(str, given)) or 'nothing'}"
        )
    task = given.get(TASK_KEY, "")
    state = _array(given[STATE]) if STATE in given else np.zeros(0, np.float32)
    return Observation(
        images=images,
        state=np.ascontiguousarray(state.reshape(-1), dtype=np.float32),
        instruction=task if isinstance(task, str) else str(task[0]),
    )


def _array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def as_picture(key: str, value: Any) -> NDArray[np.uint8]:
    """A picture as uint8 [H, W, 3], from one in [H, W, 3] or [3, H, W], of uint8 or of numbers in [0, 1].

    Raises `ReflexError` naming the `key` for anything else.
    """
    array = _array(value)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[-1] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        raise ReflexError(f"{key}: expected a picture [H, W, 3] or [3, H, W], got {list(array.shape)}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ReflexError(f"{key}: expected uint8, or floating-point numbers in [0, 1], got {array.dtype}")
    if not (array.min() >= 0.0 and array.max() <= 1.0):
        raise ReflexError(
            f"{key}: floating-point pictures are in [0, 1], this one is in [{array.min():g}, {array.max():g}]; give it "
            "as it comes from the dataset, or as uint8"
        )
    return np.ascontiguousarray(np.rint(array * 255.0).astype(np.uint8))


def greedy_chunk(policy: Policy, observation: Observation | Mapping[str, Any]) -> NDArray[np.float32]:
    """The greedy policy's chunk [H, A] after one observation of either form; cameras are found by its feature map."""
    cameras = [policy.feature_map.camera(name) for name in policy.spec.embodiment.camera_names]
    chunk: NDArray[np.float32] = policy.act(stack_observations([as_observation(observation, cameras)])).actions[0]
    return chunk
