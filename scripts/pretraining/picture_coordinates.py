"""Where pictures show points of the scene: what a network that is pretrained on play learns to say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.tabletop.environment import TabletopEnvironment


def picture_coordinates(environment: TabletopEnvironment, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where both cameras show points [n, 3] (m): [2, n, 2] in [-1, 1], NaN outside the picture."""
    model, data = environment.model, environment.data  # whose camera poses are those of the last picture
    return np.stack(
        [
            seen_by_camera(points, data.cam_xpos[camera], data.cam_xmat[camera].reshape(3, 3), model.cam_fovy[camera])
            for camera in environment.cameras
        ]
    )


def seen_by_camera(
    points: NDArray[np.float64], position: NDArray[np.float64], rotation: NDArray[np.float64], fovy: float
) -> NDArray[np.float64]:
    """Where a square picture shows points [n, 3] (m, world): [n, 2], x rightwards and y downwards in [-1, 1].

    NaN where a point lies outside the picture or behind the camera; what hides it is not asked. `position` [3] and
    `rotation` [3, 3] are the camera's (`cam_xpos`, `cam_xmat`; it looks along its -z), `fovy` its field of view (deg).
    """
    seen = (points - position) @ rotation
    depth = -seen[:, 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        picture = seen[:, :2] * [1.0, -1.0] / (depth * np.tan(np.radians(fovy) / 2.0))
    inside = (depth > 0.0) & (np.abs(picture) <= 1.0).all(axis=1, keepdims=True)
    return np.where(inside, picture, np.nan)
