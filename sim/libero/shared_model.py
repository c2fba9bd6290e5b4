"""One compiled model and one GL context for all environments of a task in a process.

A LIBERO model is 100 MiB, most of it meshes and textures, and its GL context 200 MiB more. What environments of one
task do not share of it is a handful of numbers: where fixtures stand, and which flames are seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.libero.rendering import CameraRenderer, Look


@dataclass
class ModelPart:
    """What of a model is one scene's own."""

    fixture_poses: NDArray[np.float64]
    """[fixtures, 7] positions and quaternions."""
    site_rgba: NDArray[np.float32]
    """[sites, 4] colours; a stove's flame is a site."""


class SharedModel:
    """A task's model. Whoever is about to use it says which scene's part it has to hold (`hold`)."""

    def __init__(self, model: mujoco.MjModel, fixture_bodies: Sequence[int]) -> None:
        self.model, self._fixtures = model, list(fixture_bodies)
        self._held: ModelPart | None = None
        self._renderers: WeakValueDictionary[tuple[int, Look], CameraRenderer] = WeakValueDictionary()

    def part(self) -> ModelPart:
        """A scene's own part, to begin with what the model holds now."""
        return ModelPart(self.fixture_poses(), self.model.site_rgba.copy())

    def hold(self, part: ModelPart) -> None:
        """Let the model hold `part` until another is asked for; changes made meanwhile are kept in the part."""
        if part is self._held:
            return
        if self._held is not None:
            self._held.fixture_poses, self._held.site_rgba = self.fixture_poses(), self.model.site_rgba.copy()
        self._held = part
        self.place_fixtures(part.fixture_poses)
        self.model.site_rgba[:] = part.site_rgba

    def place_fixtures(self, poses: NDArray[np.float64]) -> None:
        """Put cabinets and stoves into the model as it is, by their positions and quaternions [fixtures, 7]."""
        self.model.body_pos[self._fixtures] = poses[:, :3]
        self.model.body_quat[self._fixtures] = poses[:, 3:]

    def fixture_poses(self) -> NDArray[np.float64]:
        """Where they are in the model as it is, [fixtures, 7]."""
        return np.hstack([self.model.body_pos[self._fixtures], self.model.body_quat[self._fixtures]])

    def renderer(self, size: int, look: Look) -> CameraRenderer:
        """Draws snapshots of any of the scenes, for as long as somebody keeps it.

        Raises `EnvironmentRequestError` when no off-screen GL context can be created.
        """
        renderer = self._renderers.get((size, look))
        if renderer is None:
            renderer = self._renderers[size, look] = CameraRenderer(self.model, size, look)
        return renderer
