"""What a policy sees of a camera through an encoder that does not learn, and what its folder keeps of that."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from vla.errors import ReflexError
from vla.policies.moment_features import PICTURES, POLICY, STATE, Encoded, load_features
from world_models.errors import WorldModelError

ENCODER_FOLDER = "encoder"
"""In a policy folder: the encoder, where it is one that was trained here."""


@dataclass(frozen=True)
class FrozenVision:
    """A camera's pictures as numbers of a frozen encoder."""

    encoder: str
    """Name or folder, as `load_features` takes it."""
    camera: str
    identity: str
    """The same for the same features; it has the hash of a folder's weights."""
    size: int
    """F: numbers of a picture."""
    features: Encoded | None = field(default=None, compare=False, repr=False)
    """What computes them; None before `opened`."""

    @classmethod
    def of(cls, encoder: str, camera: str, features: Any) -> FrozenVision:
        """Of an encoder that is loaded. Raises `ReflexError` for features of something else than one picture."""
        if not isinstance(features, Encoded):
            raise ReflexError(
                f"encoder={encoder} gives a policy no frozen features of one camera; use pixels, or the name or folder "
                f"of an encoder (leave out {STATE}, {PICTURES} and {POLICY}...)"
            )
        place = str(Path(encoder).resolve()) if Path(encoder).is_dir() else encoder
        return cls(place, camera, features.identity, features.size, features)

    def describe(self) -> dict[str, Any]:
        """JSON-ready, as a policy's config.json has it."""
        return {"encoder": self.encoder, "camera": self.camera, "identity": self.identity, "size": self.size}

    def opened(self, folder: Path, device: str) -> FrozenVision:
        """The same with its encoder, from a policy's folder or from where the name says.

        Raises `ReflexError` when there is none, or another than the policy was trained with.
        """
        kept = folder / ENCODER_FOLDER
        source = str(kept) if kept.is_dir() else self.encoder
        try:
            found = load_features(source, self.camera, None, device)
        except WorldModelError as error:
            raise ReflexError(
                f"{folder} looks through the encoder {self.encoder!r}, which cannot be loaded here ({error}); put it "
                "back, or set vision.encoder in its config.json to where it is"
            ) from error
        if not isinstance(found, Encoded) or found.identity != self.identity:
            raise ReflexError(
                f"{folder} was trained on features of {self.identity!r}, and {source} gives {found.identity!r}; "
                "restore that encoder, or train the policy again"
            )
        return replace(self, features=found)

    def of_frames(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Frames uint8 [B, H, W, 3] -> features float32 [B, F]. Raises `ReflexError` before `opened`."""
        if self.features is None:
            raise ReflexError(f"the encoder {self.encoder!r} is not loaded; load the policy with load_policy(folder)")
        nothing = np.zeros((len(frames), 0), np.float32)
        seen = ObservationBatch(images={self.camera: frames}, state=nothing, instruction=[""] * len(frames))
        return self.features.of(seen)

    def save(self, folder: Path) -> None:
        """Write the encoder into a policy's folder, where it is one that was trained here.

        Raises `ReflexError` when it cannot be written.
        """
        if self.features is None:
            return
        try:
            self.features.save(folder / ENCODER_FOLDER)
        except WorldModelError as error:
            raise ReflexError(str(error)) from error
