"""Suites that go wrong, each in one way, to test what the pool makes of it.

`get_suite("<fault>:<file>")`: the fault happens at control step 5 of an episode of task 1. With a file name it
happens only while that file exists, and removes it, so that it happens once.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, ManipulationEnvironment, StepOutcome, Suite
from tests.fake_suite import FakeEnvironment, FakeSuite

FAULTY_TASK = 1
FAULTY_STEP = 5


class FaultyEnvironment(FakeEnvironment):
    """Has its fault at one step."""

    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        outcome = super().advance(action)
        fault, _, once = self.suite_name.partition(":")
        if self.task_id != FAULTY_TASK or self._steps != FAULTY_STEP or (once and not Path(once).exists()):
            return outcome
        if once:
            Path(once).unlink()
        if fault == "raises":
            raise ZeroDivisionError("the gripper divided by zero")
        if fault == "refuses":
            raise EnvironmentRequestError("this drawer does not open")
        if fault == "dies":
            os._exit(13)
        if fault == "hangs":
            time.sleep(1000)
        raise AssertionError(f"unknown fault {fault}")


class FaultySuite(FakeSuite):
    """Makes faulty environments."""

    def make(self, task_id: int) -> ManipulationEnvironment:
        self.task_name(task_id)
        return FaultyEnvironment(self.name, task_id, self.image_size)


def get_suite(name: str, image_size: int | None = None) -> Suite:
    """The factory to give a pool."""
    return FaultySuite(name, image_size)
