"""The point suite with nothing but initial states that its expert cannot solve."""

from __future__ import annotations

from sim.contract import ManipulationEnvironment, Split, Suite
from tests.vla.data.point_suite import UNSOLVABLE, PointEnvironment, PointSuite


class StuckEnvironment(PointEnvironment):
    def reset_to(self, split: Split, init_state_id: int) -> None:
        super().reset_to(split, UNSOLVABLE[0])


class HopelessSuite(PointSuite):
    def make(self, task_id: int) -> ManipulationEnvironment:
        return StuckEnvironment(task_id, self.image_size)


def get_suite(name: str, image_size: int | None = None) -> Suite:
    return HopelessSuite(image_size)
