"""Synthetic rollouts: a red square that moves and a green one that stays, and where they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def moving_squares(
    count: int, seed: int, longest: int = 10, size: int = 64
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.float32]]]:
    """Clips [T, size, size, 3] of 4..longest frames, and per frame [T, 4]: column and row of both squares."""
    generator = np.random.default_rng(seed)
    clips, positions = [], []
    half = size // 16
    for _ in range(count):
        length = int(generator.integers(4, longest + 1))
        mover, stayer = generator.uniform(half, size - half, (2, 2))
        velocity = generator.uniform(-0.1 * size, 0.1 * size, 2)
        frames = np.full((length, size, size, 3), 60, np.uint8)
        track = np.zeros((length, 4), np.float32)
        for step in range(length):
            for (column, row), colour in ((stayer, (40, 200, 60)), (mover, (220, 40, 40))):
                top, left = max(0, int(row) - half), max(0, int(column) - half)
                frames[step, top : int(row) + half, left : int(column) + half] = colour
            track[step] = [*mover, *stayer]
            mover = mover + velocity
            velocity = np.where((mover < half) | (mover > size - half), -velocity, velocity)
            mover = mover.clip(half, size - half)
        clips.append(frames)
        positions.append(track)
    return clips, positions
