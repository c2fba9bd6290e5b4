"""From a request to what a policy takes: every way of saying an observation ends in one, or in a refusal in words.

Requests are checked here, before they share a batch: a wrong one must not spoil the others'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import Observation, ObservationBatch, stack_observations
from vla.data.camera_names import SYNONYMS, find_camera
from vla.data.feature_map import FeatureMap
from vla.data.images import resize_frames
from vla.data.lerobot_keys import CAMERA_PREFIX, STATE
from vla.errors import ReflexError
from vla.policies.observations import TASK_KEY, as_picture
from vla.policies.protocol import PolicySpec
from vla.policies.remote.keys import PRESETS, numbers, preset_of, text

FORMS = (
    f"images, state and instruction; or {CAMERA_PREFIX}<camera>, {STATE} and {TASK_KEY}; or the keys of openpi's "
    f"examples ({', '.join(PRESETS)})"
)


class RequestReader:
    """Reads requests for one policy."""

    def __init__(self, spec: PolicySpec, feature_map: FeatureMap, max_batch: int) -> None:
        """`feature_map` is the policy's: what it gets has those names."""
        self._spec, self._feature_map, self._max_batch = spec, feature_map, max_batch

    def read(self, message: Mapping[str, Any]) -> tuple[ObservationBatch, bool]:
        """The observations of a request, with pictures as large as the policy's, and whether it was a batch.

        A batch has `images`, `state` and `instruction` as `ObservationBatch` says. Raises `ReflexError` naming what is
        missing or wrong.
        """
        if "images" in message and isinstance(message.get("instruction"), list):
            rows = self._rows(message)
            return stack_observations([self._fitted(row) for row in rows]), True
        return stack_observations([self._fitted(read_observation(message))]), False

    def _rows(self, message: Mapping[str, Any]) -> list[Observation]:
        instructions, images = message["instruction"], _dictionary(message["images"])
        count = len(instructions)
        if not 1 <= count <= self._max_batch:
            raise ReflexError(f"a request has 1 to {self._max_batch} observations (max_batch), and not {count}")
        state = np.asarray(message.get("state", np.zeros((count, 0), np.float32)))
        for name, value in (*images.items(), ("state", state)):
            if not isinstance(value, np.ndarray) or not value.ndim or len(value) != count:
                raise ReflexError(f"{name} is no array of {count} rows, one for each instruction")
        return [
            Observation(
                images={name: as_picture(name, frames[row]) for name, frames in images.items()},
                state=numbers("state", state[row]),
                instruction=text("instruction", instructions[row]),
            )
            for row in range(count)
        ]

    def _fitted(self, seen: Observation) -> Observation:
        """The observation with the policy's cameras, under the names that it looks for, and its state."""
        embodiment, images = self._spec.embodiment, {}
        names = match_cameras(embodiment.camera_names, tuple(seen["images"]), self._feature_map)
        for camera in embodiment.cameras:
            frame = seen["images"][names[camera.name]][None]
            images[self._feature_map.camera(camera.name)] = resize_frames(frame, camera.height, camera.width)[0]
        state = seen["state"]
        if not self._spec.uses_state:
            state = np.zeros(embodiment.state.size, np.float32)
        elif len(state) != embodiment.state.size:
            raise ReflexError(
                f"the state has {len(state)} numbers, and the policy takes {embodiment.state.size} "
                f"({', '.join(embodiment.state.names)})"
            )
        return Observation(images=images, state=state, instruction=seen["instruction"])


def read_observation(message: Mapping[str, Any]) -> Observation:
    """One observation, whichever keys it came with (`FORMS`). Raises `ReflexError` naming what is missing or wrong."""
    name = preset_of(message)
    if name is not None:
        return PRESETS[name].read(message, as_picture)
    if "images" in message:
        return Observation(
            images={key: as_picture(key, value) for key, value in _dictionary(message["images"]).items()},
            state=numbers("state", message.get("state", [])),
            instruction=text("instruction", message.get("instruction")),
        )
    pictures = {key: value for key, value in message.items() if key.startswith(CAMERA_PREFIX)}
    if not pictures and STATE not in message:
        shown = ", ".join(sorted(message)[:8]) or "nothing"
        raise ReflexError(f"an observation has {FORMS}; this one has {shown[:200]}")
    task = message.get(TASK_KEY, "")
    return Observation(
        images={key: as_picture(key, value) for key, value in pictures.items()},
        state=numbers(STATE, message.get(STATE, [])),
        instruction=text(TASK_KEY, task[0] if isinstance(task, list) and task else task),
    )


def match_cameras(wanted: Sequence[str], given: Sequence[str], feature_map: FeatureMap) -> dict[str, str]:
    """For each of the policy's cameras the name that a request gives it: the same, a dataset's, or a known synonym.

    A synonym counts only where each side has one camera of its kind. Raises `ReflexError` showing both sides.
    """
    matched: dict[str, str] = {}
    for ours in wanted:
        names = (feature_map.camera(ours), ours)
        theirs = next((name for name in names if name in given), None)
        theirs = theirs or next((name for name in given if find_camera(name, names)), None)
        if theirs is not None:
            matched[ours] = theirs
    for group in SYNONYMS.values():
        left = [name for name in wanted if name not in matched and name.lower() in group]
        right = [
            name for name in given if name not in matched.values() and name.removeprefix(CAMERA_PREFIX).lower() in group
        ]
        if len(left) == len(right) == 1:
            matched[left[0]] = right[0]
    missing = [name for name in wanted if name not in matched]
    if missing:
        shown = ", ".join(sorted(given)[:8])[:200] or "none"
        raise ReflexError(
            f"no picture for the policy's camera {missing[0]!r}; it has cameras {', '.join(wanted)} and the request "
            f"has {shown}"
        )
    return matched


def _dictionary(images: Any) -> dict[str, NDArray[Any]]:
    if not isinstance(images, dict) or not all(isinstance(name, str) for name in images):
        raise ReflexError("images is no dictionary of pictures by camera")
    return images
