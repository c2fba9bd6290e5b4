"""What every suite's environment does alike: actions in, the gymnasium methods out."""

from dataclasses import dataclass

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError, FloatArray, Observation, Split, StepOutcome
from sim.core.environment import SuiteEnvironment, check_action
from sim.embodiments import PANDA_EEF


class Recorded(SuiteEnvironment):
    """Answers with given outcomes, and says what was asked of it."""

    suite_name = "recorded"
    num_init_states = 7

    def __init__(self, *outcomes: StepOutcome) -> None:
        super().__init__(5, "go", 10, PANDA_EEF.with_image_size(4))
        self.outcomes, self.resets = list(outcomes), list[tuple[Split, int]]()

    def reset_to(self, split: Split, init_state_id: int) -> None:
        self.resets.append((split, init_state_id))
        self.init_state_id = init_state_id

    def advance(self, action: np.ndarray) -> StepOutcome:
        return self.outcomes.pop(0)

    def true_progress(self) -> float:
        return 0.375

    def robot_state(self) -> FloatArray:
        return np.arange(8, dtype=np.float32)

    def render_observation(self) -> Observation:
        picture = np.full((4, 4, 3), 9, np.uint8)
        return Observation(
            images={"image": picture, "wrist_image": picture + 1}, state=self.robot_state(), instruction="go"
        )


def test_actions_are_clipped_to_their_range() -> None:
    action = np.array([0.5, -2.0, 3.0, 0, 0, 0, -1.5], dtype=np.float32)
    checked = check_action(action, PANDA_EEF.action)
    assert checked.tolist() == [0.5, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0] and checked.dtype == np.float64
    assert action[1] == -2.0, "the caller's stays as it is"
    for bad in (np.zeros(8), np.zeros((1, 7)), np.full(7, -np.inf)):
        with pytest.raises(EnvironmentRequestError, match="an action"):
            check_action(bad, PANDA_EEF.action)


def test_a_reset_says_where_it_starts() -> None:
    environment = Recorded()
    observation, info = environment.reset(options={"init_state_id": 3, "split": "eval"})
    assert environment.resets == [("eval", 3)]
    assert info == {"success": False, "cost": 0.0, "task_id": 5, "init_state_id": 3, "progress": 0.375}
    assert observation["state"].tolist() == list(range(8))
    assert environment.render().max() == 9, "the third-person picture"


def test_a_reset_without_options_draws_a_training_state() -> None:
    environment = Recorded()
    environment.reset(seed=1)
    for _ in range(60):
        environment.reset()
    assert {split for split, _ in environment.resets} == {"train"}
    assert {index for _, index in environment.resets} == set(range(7))
    again = Recorded()
    again.reset(seed=1)
    assert again.resets[0] == environment.resets[0]


@dataclass(frozen=True)
class Case:
    """An outcome, and reward, terminated and truncated of it."""

    outcome: StepOutcome
    expected: tuple[float, bool, bool]


@pytest.mark.parametrize(
    "case",
    [
        Case(StepOutcome(success=True, truncated=False, cost=0.25, progress=1.0), (1.0, True, False)),
        Case(StepOutcome(success=False, truncated=True, cost=0.5, progress=0.125), (0.0, False, True)),
        Case(StepOutcome(success=False, truncated=False, cost=0.0, progress=0.75), (0.0, False, False)),
    ],
)
def test_a_step_is_its_outcome(case: Case) -> None:
    environment = Recorded(case.outcome)
    environment.reset(options={"init_state_id": 2})
    _, reward, terminated, truncated, info = environment.step(np.zeros(7))
    assert (reward, terminated, truncated) == case.expected
    assert case.outcome.done is (terminated or truncated)
    assert info == {
        "success": case.outcome.success,
        "cost": case.outcome.cost,
        "task_id": 5,
        "init_state_id": 2,
        "progress": case.outcome.progress,
    }


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(EnvironmentRequestError, match=r"never reset; call reset\(\) first"):
        Recorded().step(np.zeros(7))


@pytest.mark.parametrize("wrong", ["3", 3.0, True, None.__class__])
def test_an_initial_state_is_an_integer(wrong: object) -> None:
    with pytest.raises(EnvironmentRequestError, match="init_state_id must be an integer, not"):
        Recorded().reset(options={"init_state_id": wrong})
    assert Recorded().reset(options={"init_state_id": np.int64(3)})[1]["init_state_id"] == 3


def test_spaces_are_those_of_the_embodiment() -> None:
    environment = Recorded()
    observation, _ = environment.reset(seed=0)
    assert environment.observation_space.contains(observation)
    assert environment.action_space.shape == (7,) and environment.action_space.contains(np.ones(7, np.float32))
    assert environment.metadata["render_fps"] == 20
