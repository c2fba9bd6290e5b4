"""What an episode kept of what was seen, as a policy takes it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from vla.data.episode import Episode


def observations_at(episode: Episode, moments: NDArray[np.int64]) -> ObservationBatch:
    """An episode's kept observations at positions [n] in `observation_steps`."""
    return ObservationBatch(
        image=episode.images[moments],
        wrist_image=episode.wrist_images[moments],
        state=episode.states[moments],
        instruction=[episode.instruction] * len(moments),
    )
