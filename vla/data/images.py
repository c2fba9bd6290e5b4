"""Pictures to another size, as every policy sees them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def resize_frames(frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """[B, H, W, 3] uint8 to [B, height, width, 3]: area averaging when shrinking, bilinear when enlarging."""
    if frames.shape[1:3] == (height, width):
        return frames
    resized = np.empty((len(frames), height, width, 3), np.uint8)
    for source, target in zip(frames, resized, strict=True):
        resize_into(source, target)
    return resized


def resize_into(frame: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    """Fill `target` [h, w, 3] with a frame [H, W, 3], resized like `resize_frames` where the sizes differ."""
    height, width = target.shape[:2]
    if frame.shape == target.shape:
        target[:] = frame
        return
    shrinking = frame.shape[0] >= height and frame.shape[1] >= width
    target[:] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
