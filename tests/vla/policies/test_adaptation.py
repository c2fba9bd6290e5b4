"""A policy for another robot, made from a trained one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sim.contract import ObservationBatch
from sim.embodiments import PANDA_EEF, Action, Camera, Embodiment, State
from tests.vla.policies.helpers import make_observations, small_policy, small_prismatic
from vla.policies.adaptation import take_over
from vla.policies.tokens.policy import TokenPolicy

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_flex", "wrist_roll", "gripper")
ARM = Embodiment(
    name="arm",
    cameras=(Camera("front", 48, 64), Camera("side", 48, 64), Camera("wrist", 32, 32)),
    state=State(JOINTS),
    action=Action(JOINTS, "joint_position", low=(-180.0,) * 6, high=(180.0,) * 6, gripper=5),
    control_frequency=30,
)
FAMILIES = (small_policy, small_prismatic)


def look(embodiment: Embodiment, count: int = 2) -> ObservationBatch:
    """Noise for a robot."""
    generator = np.random.default_rng(0)
    return ObservationBatch(
        images={
            camera.name: generator.integers(0, 256, (count, camera.height, camera.width, 3), dtype=np.uint8)
            for camera in embodiment.cameras
        },
        state=generator.uniform(-1, 1, (count, embodiment.state.size)).astype(np.float32),
        instruction=["pick up the red cube"] * count,
    )


@pytest.mark.parametrize("make", FAMILIES)
def test_what_depends_on_the_robot_is_fresh_and_the_rest_is_taken_over(make: Callable[[], TokenPolicy]) -> None:
    trained = make()
    torch.manual_seed(5)
    adapted = trained.adapt(ARM, chunk_horizon=6, execute_steps=3)
    policy = adapted.policy
    assert isinstance(policy, type(trained))
    expected = {"action_head", "action_queries", "camera_embedding", "state_projector"}
    expected |= {"word_grounding.projection"} if make is small_policy else set()
    assert set(adapted.fresh) == expected
    assert {"language_model", "vision_towers", "projector"} <= set(adapted.taken)
    before, after = trained.state_dict(), policy.state_dict()
    for name, value in after.items():
        if any(name.startswith(part) for part in expected):
            assert (
                name not in before
                or before[name].shape != value.shape
                or not torch.equal(before[name], value)
                or (name.endswith("bias"))
            ), name
        else:
            assert torch.equal(before[name], value), name
    output = policy.act(look(ARM))
    assert output.actions.shape == (2, 6, 6)
    assert policy.spec.embodiment == ARM.with_image_size(16) and policy.spec.execute_steps == 3
    assert policy.spec.unit_steps == tuple(np.repeat(np.arange(6), 6).tolist())
    assert "action_head" in adapted.describe() and "language_model" in adapted.describe()


@pytest.mark.parametrize("make", FAMILIES)
def test_the_same_robot_keeps_every_weight_and_the_scale_of_its_actions(make: Callable[[], TokenPolicy]) -> None:
    trained = make()
    trained.set_normalisation(np.full(7, -0.5), np.full(7, 0.25), np.full(8, -2.0), np.full(8, 3.0))
    renamed = dataclasses.replace(PANDA_EEF, cameras=(Camera("front", 90, 90), Camera("hand", 90, 90)))
    adapted = trained.adapt(renamed)
    assert adapted.fresh == () and adapted.policy.has_normalisation
    seen = make_observations(3)
    theirs: ObservationBatch = {
        **seen,
        "images": {"front": seen["images"]["image"], "hand": seen["images"]["wrist_image"]},
    }
    np.testing.assert_array_equal(adapted.policy.act(theirs).actions, trained.act(seen).actions)
    assert adapted.policy is not trained


def test_equal_shapes_are_not_the_same_when_they_mean_something_else() -> None:
    """Seven joint angles are not a hand's movement, and their scale is not that of their predecessors."""
    trained = small_policy()
    trained.set_normalisation(np.full(7, -0.5), np.full(7, 0.25), np.full(8, -2.0), np.full(8, 3.0))
    joints = tuple(f"joint_{number}" for number in range(7))
    other = dataclasses.replace(PANDA_EEF, action=Action(joints, "joint_position"))
    adapted = trained.adapt(other)
    assert adapted.fresh == ("action_head",)
    assert not adapted.policy.has_normalisation
    adapted.policy.fit_normalisation(
        np.random.default_rng(0).uniform(-90, 90, (200, 7)).astype(np.float32), np.zeros((200, 8), np.float32)
    )
    assert np.abs(adapted.policy.act(make_observations(1)).actions).max() > 2.0, "joint angles are not in [-1, 1]"
    unknown = dataclasses.replace(PANDA_EEF, action=dataclasses.replace(PANDA_EEF.action, kind="unknown"))
    assert trained.adapt(unknown).fresh == ()


def test_fewer_executed_steps_change_no_weight_and_a_shorter_chunk_its_queries() -> None:
    trained = small_policy()
    assert trained.adapt(trained.embodiment, execute_steps=2).fresh == ()
    shorter = trained.adapt(trained.embodiment, chunk_horizon=2)
    assert shorter.fresh == ("action_queries",) and shorter.policy.spec.execute_steps == 2


@pytest.mark.parametrize("make", FAMILIES)
def test_a_robot_without_a_state_is_looked_at_alone(make: Callable[[], TokenPolicy]) -> None:
    trained = make()
    blind = dataclasses.replace(ARM, state=State(()))
    adapted = trained.adapt(blind)
    assert not adapted.policy.spec.uses_state and "state_projector" not in (*adapted.taken, *adapted.fresh)
    adapted.policy.fit_normalisation(np.ones((5, 6), np.float32), np.zeros((5, 0), np.float32))
    assert adapted.policy.act(look(blind)).actions.shape == (2, 4, 6)


def test_weights_that_depend_on_the_robot_unsaid_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"unsaid: \['extra'\]"):
        target = torch.nn.ParameterDict({"shared": torch.nn.Parameter(torch.ones(2)), "extra": torch.ones(1)})
        take_over(target, torch.nn.ParameterDict({"shared": torch.nn.Parameter(torch.zeros(2))}), {})
