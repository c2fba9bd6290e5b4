"""Observations as one flat dictionary of arrays, for libraries that know no nested ones and no text."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, ManipulationEnvironment, Observation


class FlatObservation(gymnasium.ObservationWrapper[dict[str, NDArray[Any]], NDArray[np.float32], Observation]):
    """`{camera: uint8 [H, W, 3], ..., "state": float32 [S]}`: what stable-baselines3's `MultiInputPolicy` takes.

    The instruction is left out: within one task it never changes.
    """

    def __init__(self, environment: ManipulationEnvironment) -> None:
        """Raises `EnvironmentRequestError` for a camera that is called "state"."""
        super().__init__(environment)
        space: Any = environment.observation_space
        pictures = dict(space["images"].items())
        if "state" in pictures:
            raise EnvironmentRequestError('a camera is called "state"; rename it to flatten the observation')
        flat: Any = gymnasium.spaces.Dict({**pictures, "state": space["state"]})
        self.observation_space = flat

    def observation(self, observation: Observation) -> dict[str, NDArray[Any]]:
        """The pictures and the state side by side."""
        return {**observation["images"], "state": observation["state"]}
