"""One observation for the policy: the arm's state and each camera's newest picture, with their ages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import ArmReading
from sim.contract import Observation


class TimedFrame(Protocol):
    """A picture and when it was taken."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """[H, W, 3] RGB, upright."""

    @property
    def time(self) -> float:
        """Monotonic seconds."""


class Camera(Protocol):
    """A camera that keeps its newest picture; asking for it does not wait."""

    def latest(self) -> TimedFrame | None:
        """The newest picture; None before the first."""


@dataclass(frozen=True)
class Seen:
    """What was there at one control step."""

    reading: ArmReading
    images: Mapping[str, NDArray[np.uint8]]
    image_times: Mapping[str, float]
    """By camera: monotonic seconds."""
    stale: tuple[str, ...]
    """Cameras whose newest picture is too old, or that have none."""

    @property
    def time(self) -> float:
        """Of its oldest part: how fresh a decision on it can be."""
        return min([self.reading.time, *self.image_times.values()])

    def observation(self, instruction: str) -> Observation:
        """As a policy takes it."""
        return Observation(images=dict(self.images), state=self.reading.state, instruction=instruction)


def look(reading: ArmReading, cameras: Mapping[str, Camera], now: float, max_age: float) -> Seen:
    """The newest pictures beside what the arm felt; one older than `max_age` seconds at `now` is stale."""
    images: dict[str, NDArray[np.uint8]] = {}
    times: dict[str, float] = {}
    stale = []
    for name, camera in cameras.items():
        frame = camera.latest()
        if frame is None:
            stale.append(name)
            continue
        images[name], times[name] = frame.image, frame.time
        if now - frame.time > max_age:
            stale.append(name)
    return Seen(reading, images, times, tuple(stale))
