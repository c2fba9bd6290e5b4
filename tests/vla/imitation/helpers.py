"""Demonstrations made of random frames with actions that depend on them."""

from __future__ import annotations

import numpy as np

from sim.embodiments import PANDA_EEF
from vla.data.episode import Episode


def make_episode(index: int, length: int = 6, size: int = 16) -> Episode:
    """A successful demonstration of `length` steps, observed at every step."""
    generator = np.random.default_rng([7, index])
    zeros = np.zeros(length, np.float32)
    return Episode(
        suite="fake",
        embodiment=PANDA_EEF.with_image_size(size),
        task_id=index % 2,
        instruction=("pick up the red cube", "open the drawer")[index % 2],
        split="train",
        init_state_id=index,
        seed=0,
        policy_id="expert",
        success=True,
        actions=generator.uniform(-0.8, 0.8, (length, 7)).astype(np.float32),
        observation_steps=np.arange(length),
        images={
            camera: generator.integers(0, 256, (length, size, size, 3), dtype=np.uint8)
            for camera in ("image", "wrist_image")
        },
        states=generator.uniform(-1, 1, (length, 8)).astype(np.float32),
        rewards=zeros,
        costs=zeros,
        progress=zeros,
    )
