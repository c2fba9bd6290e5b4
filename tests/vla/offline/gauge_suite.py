"""The point suite without pictures and without initial states that cannot be solved: pushing the gauge up succeeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sim.contract import ManipulationEnvironment, Observation, Split
from sim.embodiments import PANDA_EEF
from tests.vla.data.point_suite import PointEnvironment, PointSuite

BLIND = replace(PANDA_EEF, cameras=())


class GaugeEnvironment(PointEnvironment):
    """Random actions fill the gauge now and then."""

    def __init__(self, task_id: int, image_size: int) -> None:
        super().__init__(task_id, image_size)
        self.suite_name, self.embodiment = "gauge", BLIND

    def reset_to(self, split: Split, init_state_id: int) -> None:
        super().reset_to(split, init_state_id)
        self._stuck = False

    def render_observation(self) -> Observation:
        return Observation(images={}, state=self.robot_state(), instruction=self.instruction)


class GaugeSuite(PointSuite):
    """A robot of PANDA_EEF's state and action."""

    name = "gauge"

    def __init__(self, image_size: int | None) -> None:
        super().__init__(image_size)
        self.embodiment = BLIND

    def make(self, task_id: int) -> ManipulationEnvironment:
        return GaugeEnvironment(task_id, self.image_size)

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), "suite": "gauge"}


NAME = "tests.vla.offline.gauge_suite:GaugeSuite"
