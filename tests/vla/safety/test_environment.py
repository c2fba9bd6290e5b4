"""The tabletop behind the filter."""

import numpy as np

from sim.suites import get_suite
from tests.vla.safety.test_deltas import LIMITS
from vla.safety.deltas import PANDA_COMMANDS, DeltaFilter
from vla.safety.environment import FilteredEnvironment
from vla.safety.filter import ActionFilter


def positions(state: np.ndarray) -> np.ndarray:
    return np.array([*state[:3], 0.0, 0.0, 0.0, -1.0], dtype=np.float64)


def filtered_tabletop() -> FilteredEnvironment:
    environment = FilteredEnvironment(
        get_suite("tabletop").make(0), DeltaFilter(ActionFilter(LIMITS, 1 / 20), PANDA_COMMANDS), positions
    )
    environment.reset_to("train", 0)
    return environment


def test_gentle_actions_give_the_same_bits_and_cost_nothing() -> None:
    plain = get_suite("tabletop").make(0)
    plain.reset_to("train", 0)
    environment = filtered_tabletop()
    gentle = np.array([0.1, 0.05, 0.1, 0.0, 0.0, 0.0, -1.0])
    for _ in range(3):
        outcome = environment.advance(gentle)
        assert environment.filtered is not None and environment.filtered.reasons == ()
        assert outcome == plain.advance(gentle)
        assert environment.robot_state().tobytes() == plain.robot_state().tobytes()


def test_an_intervention_costs_one_and_an_action_that_is_not_finite_is_held() -> None:
    environment = filtered_tabletop()
    assert environment.advance(np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])).cost >= 1.0
    before = environment.robot_state()
    assert environment.advance(np.full(7, np.nan)).cost >= 1.0
    assert environment.filtered is not None and environment.filtered.decision == "hold"
    assert np.abs(environment.robot_state() - before)[:3].max() < 0.05


def test_it_is_an_environment_like_any_other() -> None:
    environment = filtered_tabletop()
    observation, info = environment.reset(seed=0)
    assert observation["state"].shape == environment.observation_space["state"].shape
    *_, info = environment.step(np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0], dtype=np.float32))
    assert info["cost"] >= 1.0 and 0.0 <= info["progress"] <= 1.0
