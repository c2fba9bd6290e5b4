"""What an episode kept of what was seen, as a policy takes it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from vla.data.episode import Episode


def observations_at(episode: Episode, moments: NDArray[np.int64]) -> ObservationBatch:
    """An episode's kept observations at positions [n] in `observation_steps`."""
    return ObservationBatch(
        images={camera: frames[moments] for camera, frames in episode.images.items()},
        state=episode.states[moments],
        instruction=episode.instructions_at(moments),
    )
