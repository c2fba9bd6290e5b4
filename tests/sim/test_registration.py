"""gymnasium ids: every suite's tasks, in vector environments of either kind, and for stable-baselines3."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import sim
from sim.contract import EnvironmentRequestError
from sim.core.spaces import MAX_LENGTH, Instruction
from sim.registration import NAMED, NUMBERED, make_environment
from sim.suites import SUITE_NAMES, get_suite

RED = "reflex/tabletop-pick_red-v0"


@pytest.mark.parametrize("suite", [name for name in NAMED if name in ("tabletop", "robosuite")])
def test_named_tasks_are_those_of_the_suite(suite: str) -> None:
    found = get_suite(suite)
    assert NAMED[suite] == tuple(found.task_name(task) for task in found.task_ids)


def test_every_task_of_every_suite_has_an_id() -> None:
    assert set(NAMED) | set(NUMBERED) == set(SUITE_NAMES)
    for suite, count in NUMBERED.items():
        assert {f"reflex/{suite}-{number}-v0" for number in range(count)} <= set(gymnasium.registry)
    for suite, names in NAMED.items():
        assert {f"reflex/{suite}-{name}-v0" for name in names} <= set(gymnasium.registry)
    sim.register_environments()  # twice does no harm


def test_number_and_name_make_the_same_environment() -> None:
    by_name, by_number = (gymnasium.make(f"reflex/tabletop-{task}-v0") for task in ("push_left", 5))
    one, other = by_name.reset(seed=4)[0], by_number.reset(seed=4)[0]
    assert one["instruction"] == other["instruction"] == get_suite("tabletop").instruction(5)
    np.testing.assert_array_equal(one["images"]["image"], other["images"]["image"])


def test_pictures_have_the_size_asked_for() -> None:
    observation, _ = gymnasium.make(RED, image_size=32).reset(seed=0)
    assert {camera: frame.shape for camera, frame in observation["images"].items()} == {
        "image": (32, 32, 3),
        "wrist_image": (32, 32, 3),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suite": "tabletop", "task": "pick_green"}, "no task 'pick_green', only pick_red"),
        ({"suite": "table", "task": 0}, "unknown suite 'table'"),
        ({"suite": "tabletop", "task": 0, "render_mode": "human"}, "render_mode 'human' is not offered"),
    ],
)
def test_what_does_not_exist_is_named(arguments: dict, message: str) -> None:
    with pytest.raises(EnvironmentRequestError, match=message):
        make_environment(**arguments)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_an_asynchronous_vector_environment_sees_what_a_plain_one_sees(context: str) -> None:
    # With the module that knows the ids in front, other processes need no import of their own.
    tasks = (f"sim:{RED}", "sim:reflex/tabletop-pick_blue-v0")
    make = [lambda task=task: gymnasium.make(task) for task in tasks]
    actions = np.linspace(-1, 1, 14, dtype=np.float32).reshape(2, 7)
    seen = []
    for vector in (SyncVectorEnv(make), AsyncVectorEnv(make, context=context)):
        seen.append([vector.reset(seed=[3, 4])[0], vector.step(actions)[0]])
        vector.close()
    for plain, shared in zip(*seen, strict=True):
        assert tuple(plain["instruction"]) == tuple(shared["instruction"])
        assert tuple(shared["instruction"]) == ("pick up the red cube", "pick up the blue cube")
        np.testing.assert_array_equal(plain["state"], shared["state"])
        for camera in plain["images"]:
            np.testing.assert_array_equal(plain["images"][camera], shared["images"][camera])


def test_instructions_may_be_in_any_language() -> None:
    space = Instruction()
    assert space.contains("prends le cube, vite — 紅い箱!")
    assert not space.contains("x" * (MAX_LENGTH + 1)) and not space.contains(3)
    assert space.contains(space.sample())


def test_flat_observations_are_the_nested_ones() -> None:
    nested, flat = (gymnasium.make(RED, flat=flat) for flat in (False, True))
    one, other = nested.reset(seed=2)[0], flat.reset(seed=2)[0]
    assert sorted(other) == ["image", "state", "wrist_image"]
    assert flat.observation_space.contains(other)
    np.testing.assert_array_equal(other["wrist_image"], one["images"]["wrist_image"])
    np.testing.assert_array_equal(other["state"], one["state"])


def test_stable_baselines3_trains() -> None:
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_checker import check_env

    check_env(gymnasium.make(RED, flat=True), warn=False)
    model = stable_baselines3.PPO(
        "MultiInputPolicy", gymnasium.make(RED, flat=True), n_steps=8, batch_size=8, n_epochs=1, device="cpu"
    )
    before = next(model.policy.parameters()).detach().clone()
    model.learn(8)
    assert model.num_timesteps == 8
    assert any((parameter != 0).any() for parameter in [next(model.policy.parameters()) - before])
