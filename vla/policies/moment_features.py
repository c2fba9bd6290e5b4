"""What is seen of one moment: its picture, the state, or what a frozen network makes of them.

Reward models look through these, and policies on frozen features.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from vla.data.images import resize_frames
from vla.errors import ReflexError
from vla.policies.fingerprint import policy_fingerprint
from vla.policies.protocol import TrainablePolicy
from vla.policies.registry import load_policy
from vla.run.devices import resolve_device
from world_models.encoders import load_encoder
from world_models.encoders.base import VideoEncoder
from world_models.encoders.pixels import PixelConfig, PixelEncoder
from world_models.jepa.encoder import JepaEncoder

PICTURES, STATE, POLICY = "pictures", "state", "policy:"
"""Names of what needs no encoder, and what the name of a policy's features begins with."""

PIXELS_SIDE = 24
"""Side in pixels of what "pixels" keeps of a picture: one moment may be larger than a frame of a whole rollout."""

POLICY_BATCH = 256
"""Moments that a policy looks at together."""


class MomentFeatures(Protocol):
    """Moments in, one row of numbers (or one picture) for each out, from that moment alone."""

    @property
    def identity(self) -> str:
        """The same for the same features: what caches and folders of models compare."""

    def of(self, observations: ObservationBatch) -> NDArray[Any]:
        """[T, F] float32, or uint8 [T, H, W, 3]. Raises `ReflexError` when the observations lack what it looks at."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """One camera's pictures as they are, at one size."""

    camera: str | None
    height: int
    width: int

    @property
    def identity(self) -> str:
        return f"pictures of {self.camera} {self.height}x{self.width}"

    def of(self, observations: ObservationBatch) -> NDArray[np.uint8]:
        """uint8 [T, height, width, 3]"""
        return resize_frames(frames_of(observations, self.camera), self.height, self.width)


@dataclasses.dataclass(frozen=True)
class States:
    """The robot's own state."""

    identity: str = STATE

    def of(self, observations: ObservationBatch) -> NDArray[np.float32]:
        """[T, S]"""
        states = np.asarray(observations["state"], dtype=np.float32)
        if states.shape[-1] == 0:
            raise ReflexError("encoder=state looks at the robot's state, and none is given; choose another encoder")
        return states


class Encoded:
    """One camera's pictures through a frozen encoder, each picture alone."""

    def __init__(self, encoder: VideoEncoder, camera: str | None, identity: str) -> None:
        self._encoder, self._camera = encoder, camera
        self.identity = f"{identity} of {camera}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoded:
        """Itself: the network never changes, so that copies of a policy share it."""
        return self

    @property
    def size(self) -> int:
        """D: numbers of a picture."""
        return self._encoder.embedding_size

    def of(self, observations: ObservationBatch) -> NDArray[np.float32]:
        """[T, D]. Raises `world_models.errors.WorldModelError` for an embedding that is not finite."""
        return self._encoder.encode(list(frames_of(observations, self._camera)[:, None]))

    def save(self, folder: Path) -> None:
        """Write the encoder where it is one that was trained here, so that `load_encoder` reads it; else nothing.

        Raises `WorldModelError` when it cannot be written.
        """
        if isinstance(self._encoder, JepaEncoder):
            self._encoder.save(folder)


class PolicyFeatures:
    """What a policy makes of pictures, state and instruction before it acts."""

    def __init__(self, policy: TrainablePolicy) -> None:
        self._policy = policy
        self.identity = f"policy {policy_fingerprint(policy)}"

    def of(self, observations: ObservationBatch) -> NDArray[np.float32]:
        """[T, D]"""
        missing = [
            camera
            for camera in self._policy.spec.embodiment.camera_names
            if self._policy.feature_map.camera(camera) not in observations["images"]
        ]
        if missing:
            raise ReflexError(
                f"these features are those of policy {self._policy.policy_id}, which needs camera {missing[0]}; give "
                "whole episodes, which have all their cameras"
            )
        parts = []
        for first in range(0, len(observations["state"]), POLICY_BATCH):
            part = _rows(observations, slice(first, first + POLICY_BATCH))
            parts.append(self._policy.features_from_inputs(self._policy.prepare(part)))
        return np.concatenate(parts)


def load_features(name: str, camera: str | None, size: tuple[int, int] | None, device: str = "cpu") -> MomentFeatures:
    """The features called `name`.

    Args:
        name: "pictures", "state", "policy:FOLDER", or an encoder as `load_encoder` takes it.
        camera: whose pictures; None for the only one given.
        size: height and width of "pictures".
        device: where networks compute.

    Raises:
        ReflexError: "pictures" without a size, or a policy that cannot be loaded.
        WorldModelError: an encoder that cannot be.
    """
    if name == STATE:
        return States()
    if name == PICTURES:
        if size is None:
            raise ReflexError("pictures need a size: the dataset has no camera; use encoder=state")
        return Pictures(camera, *size)
    place = str(resolve_device(device))
    if name.startswith(POLICY):
        return PolicyFeatures(load_policy(name.removeprefix(POLICY), place))
    return _encoded(load_encoder(name, place), name, camera)


def _encoded(encoder: VideoEncoder, name: str, camera: str | None) -> Encoded:
    from world_models.encoders.images import ImageEncoder  # here, because transformers' models take seconds

    if isinstance(encoder, PixelEncoder):
        encoder = PixelEncoder(PixelConfig(size=PIXELS_SIDE, frames=1))
        return Encoded(encoder, camera, f"{encoder.name} {PIXELS_SIDE}")
    if isinstance(encoder, ImageEncoder):
        encoder.config = dataclasses.replace(encoder.config, frames=1)  # else a still picture is encoded eight times
    return Encoded(encoder, camera, f"{encoder.name} {_weights_hash(Path(name))}".strip())


def frames_of(observations: ObservationBatch, camera: str | None) -> NDArray[np.uint8]:
    """Pictures [T, H, W, 3] of a camera, or of the first. Raises `ReflexError` when there is none of that name."""
    images = observations["images"]
    name = next(iter(images), None) if camera is None else camera
    if name is None or name not in images:
        known = ", ".join(images) or "no camera"
        raise ReflexError(f"camera {name or 'pictures'} is looked at, and {known} is given; set camera=")
    return images[name]


def _rows(observations: ObservationBatch, rows: slice) -> ObservationBatch:
    return ObservationBatch(
        images={name: frames[rows] for name, frames in observations["images"].items()},
        state=observations["state"][rows],
        instruction=observations["instruction"][rows],
    )


def _weights_hash(folder: Path) -> str:
    """A hash of a folder's weights; empty for what is known by its name."""
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
