"""The point suite at human speed, so that a test can interrupt it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import ManipulationEnvironment, StepOutcome, Suite
from tests.vla.data.point_suite import PointEnvironment, PointSuite


class SlowEnvironment(PointEnvironment):
    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        time.sleep(0.05)
        return super().advance(action)


class SlowSuite(PointSuite):
    def make(self, task_id: int) -> ManipulationEnvironment:
        return SlowEnvironment(task_id, self.image_size)


def get_suite(name: str, image_size: int | None = None) -> Suite:
    return SlowSuite(image_size)
