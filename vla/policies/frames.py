"""Pictures of any size to the size that a network takes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def resize_frames(frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """[B, H, W, 3] uint8 to [B, height, width, 3]: area averaging when shrinking, bilinear when enlarging."""
    if frames.shape[1:3] == (height, width):
        return frames
    shrinking = frames.shape[1] >= height and frames.shape[2] >= width
    interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    resized = np.empty((len(frames), height, width, 3), np.uint8)
    for source, target in zip(frames, resized, strict=True):
        target[:] = cv2.resize(source, (width, height), interpolation=interpolation)
    return resized
