"""A dataset whose pictures are the brighter, the further an episode has come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.vla.data.samples import SIZE, make_episode, write_dataset
from vla.data.episode import Episode
from vla.offline.labels.settings import LabelConfig


def bright_episode(number: int, length: int = 12, success: bool = True, task_id: int = 0, **changes: Any) -> Episode:
    """Progress rises evenly, to 1 for a success and to 0.5 for a failure; so does brightness, from 30 to 230."""
    reached = (1.0 if success else 0.5) * np.arange(1, length + 1) / length
    before = np.concatenate([[0.0], reached[:-1]])
    picture = np.empty((length, SIZE, SIZE, 3), np.uint8)
    picture[:] = (30 + 200 * before)[:, None, None, None].round()
    picture[:, : 4 + number % 8, :4] = 10 + 3 * number  # so that no two episodes look alike
    episode = make_episode(number, length, task_id, success)
    images = {"image": picture, "wrist_image": picture // 2}
    return replace(episode, **{"images": images, "progress": reached.astype(np.float32), **changes})


def bright_dataset(folder: Path, episodes: int = 8, length: int = 12, **changes: Any) -> Path:
    """Half of them successes, of one task."""
    return write_dataset(folder, [bright_episode(n, length, n % 2 == 0, **changes) for n in range(episodes)])


def label_config(dataset: Path, output: Path, base_url: str | None = None, **changes: Any) -> LabelConfig:
    """Settings for a test server: no key, short waits."""
    from vla.offline.labels.endpoint import EndpointSettings

    endpoint: dict[str, Any] = {"base_url": base_url, "api_key_variable": None, "first_wait": 0.01, "timeout": 5.0}
    endpoint |= changes.pop("endpoint", {})
    values = {"model": "test-vlm", "pairs": 40, "checks": 2, **changes}
    return LabelConfig(str(dataset), output=str(output), endpoint=EndpointSettings(**endpoint), **values)
