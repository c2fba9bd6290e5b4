"""Suites that keep the contract pass; each way of breaking it is found, and nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, ManipulationEnvironment, Observation, Split, StepOutcome
from sim.suites import get_suite
from tests.fake_suite import HORIZON, FakeEnvironment, FakeSuite
from vla.check.suite import check_suite


class Wrong(FakeEnvironment):
    """Breaks one rule."""

    fault = ""
    count = 0

    def reset_to(self, split: Split, init_state_id: int) -> None:
        if self.fault == "same splits":
            split = "train"
        if self.fault == "accepts states":
            init_state_id %= 20
        super().reset_to(split, init_state_id)

    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        if self.fault == "accepts NaN":
            action = np.nan_to_num(np.resize(action, 7))
        if self.fault == "random":
            Wrong.count += 1
            action = action * (1 + 0.01 * Wrong.count)
        outcome = super().advance(action)
        if self.fault == "endless" and not outcome.success:
            return StepOutcome(False, False, 0.0, outcome.progress)
        if self.fault == "progress":
            return StepOutcome(outcome.success, outcome.truncated, 0.0, 2.0)
        return outcome

    def render_observation(self) -> Observation:
        seen = super().render_observation()
        if self.fault == "camera":
            seen["images"]["third"] = seen["images"].pop("wrist_image")
        if self.fault == "state":
            seen["state"] = seen["state"].astype(np.float64)
        return seen


class WrongSuite(FakeSuite):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def make(self, task_id: int) -> ManipulationEnvironment:
        if self.fault == "does not build":
            raise ZeroDivisionError("no table")
        environment = Wrong(self.name, task_id, self.image_size)
        environment.fault = self.fault
        return environment

    def horizon(self, task_id: int) -> int:
        return HORIZON - 1 if self.fault == "horizon" else HORIZON


EXPECTED = {
    "same splits": ["training and evaluation start from different states"],
    "accepts states": ["unknown initial states are refused"],
    "accepts NaN": ["NaN and misshapen actions are refused"],
    "random": ["the same start and actions give the same episode", "gymnasium's methods agree with the pool's"],
    "endless": ["an episode ends at the horizon"],
    "progress": ["an episode ends at the horizon"],
    "horizon": ["an episode ends at the horizon"],
    "camera": ["observations fit the embodiment"],
    "state": ["observations fit the embodiment"],
    "does not build": ["can be built"],
}


@pytest.mark.parametrize("fault", EXPECTED)
def test_each_broken_rule_is_found(fault: str) -> None:
    broken = [finding.rule for finding in check_suite(WrongSuite(fault), tasks=[0]) if finding.problem]
    assert broken[:1] == EXPECTED[fault][:1] and set(broken) <= set(EXPECTED[fault])


def test_a_user_s_own_exception_names_the_place() -> None:
    found = [finding for finding in check_suite(WrongSuite("does not build"), tasks=[0]) if finding.problem]
    assert found[0].problem is not None and "ZeroDivisionError: no table (test_suite_check.py, line" in found[0].problem


@pytest.mark.parametrize("name", ["tabletop"])
def test_suites_that_ship_keep_the_contract(name: str) -> None:
    findings = list(check_suite(get_suite(name), tasks=[0, 1]))
    assert len(findings) == 19
    assert [finding for finding in findings if finding.problem] == []


def test_suites_without_an_expert_pass() -> None:
    class NoExpert(FakeSuite):
        def make_expert(self, task_id: int, seed: int) -> Any:
            raise EnvironmentRequestError("there is none")

    assert not [finding for finding in check_suite(NoExpert(), tasks=[0]) if finding.problem]
