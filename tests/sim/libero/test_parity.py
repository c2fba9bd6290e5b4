"""Our environment against hf-libero's own, which renders two frames a step and rebuilds its model at every reset."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest

from sim.contract import Expert
from sim.libero.environment import LiberoEnvironment
from sim.libero.expert import BowlExpert
from sim.libero.rendering import CAMERAS
from sim.libero.scene import axis_angle_from_quaternion
from sim.libero.suite import LiberoSuite
from sim.libero.tasks import sampling_seed
from tests.sim.libero.conftest import installed

EVERY_PICTURE = bool(os.environ.get("EVERY_PICTURE"))
"""Compare pictures at each of the 200 steps, which takes half an hour, instead of at five."""
SETTLE = [0.0] * 6 + [-1.0]
SIZE = 256


@contextmanager
def original_environment(environment: LiberoEnvironment, seed: int) -> Iterator[Any]:
    """hf-libero's environment of the same task, seeded and reset as public evaluations do it."""
    from libero.libero.envs import OffScreenRenderEnv

    original = OffScreenRenderEnv(
        bddl_file_name=str(installed(environment).task.bddl_file), camera_heights=SIZE, camera_widths=SIZE
    )
    original.seed(seed)
    original.reset()
    try:
        yield original
    finally:
        original.close()
        del original
        gc.collect()  # its GL objects are freed in whatever context is current, so not in the middle of the next test


@contextmanager
def no_pictures(original: Any) -> Iterator[None]:
    """Spare the original's two frames per step where nobody compares them; its sampling clock runs on."""
    from robosuite.utils.observables import sensor

    @sensor(modality="image")
    def blank(cache: object) -> Any:
        return np.zeros((SIZE, SIZE, 3), np.uint8)

    observables = [original.env._observables[f"{camera}_image"] for camera in CAMERAS]
    real = [observable._sensor for observable in observables]
    for observable in observables:
        observable._sensor = blank
    yield
    for observable, picture in zip(observables, real, strict=True):
        observable._sensor = picture


def mixed_actions(ours: LiberoEnvironment, expert: Expert | None) -> Iterator[list[float]]:
    """200 of them: an expert's, where there is one, random motion, gripper toggles, pushing into contact, turning."""
    generator = np.random.default_rng(0)
    if expert is not None:
        expert.reset(ours)
        for _ in range(90):
            yield expert.act(ours).tolist()
    yield from generator.uniform(-1.0, 1.0, (130 if expert is None else 40, 7)).tolist()
    yield from ([0.1, -0.2, 0.0, 0.0, 0.0, 0.0, 1.0 if step % 8 < 4 else -1.0] for step in range(16))
    yield from [[0.3, 0.2, -1.0, 0.0, 0.0, 0.0, 1.0]] * 24 + [[-1.0, 0.1, -0.2, 0.0, 0.0, 0.0, 1.0]] * 10
    yield from [[0.0, 0.0, 1.0, 0.0, 0.0, 0.5, -1.0]] * 12 + [[0.0] * 6 + [-1.0]] * 8


def original_state(observation: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.concatenate(
        [
            observation["robot0_eef_pos"],
            axis_angle_from_quaternion(observation["robot0_eef_quat"]),
            observation["robot0_gripper_qpos"],
        ]
    ).astype(np.float32)


def compare(ours: LiberoEnvironment, original: Any, action: list[float], pictures: bool) -> None:
    """One control step in both, and everything that can be seen of it."""
    outcome = ours.advance(np.array(action))
    with nullcontext() if pictures else no_pictures(original):
        observation, reward, done, _ = original.step(action)
    assert np.array_equal(original.sim.data.qpos, ours.scene.data.qpos)
    assert np.array_equal(original.sim.data.qvel, ours.scene.data.qvel)
    assert original.sim.data.ncon == ours.scene.data.ncon
    assert outcome.success == done == bool(reward)
    assert np.array_equal(original_state(observation), ours.robot_state())
    if pictures:
        ours_pictures = ours.render_observation()
        for camera, key in zip(CAMERAS, ("image", "wrist_image"), strict=True):
            theirs = observation[f"{camera}_image"][::-1, ::-1]
            assert np.array_equal(theirs, ours_pictures["images"][key])


@pytest.mark.libero
@pytest.mark.timeout(1200 if EVERY_PICTURE else 300)
@pytest.mark.parametrize(
    ("name", "task_id"),
    [
        ("libero_spatial", 0),
        ("libero_spatial", 4),
        ("libero_spatial", 8),
        ("libero_object", 1),
        ("libero_object", 5),
        ("libero_object", 9),
        ("libero_goal", 0),
        ("libero_goal", 5),
        ("libero_goal", 7),
        ("libero_10", 2),
        ("libero_10", 3),
        ("libero_10", 9),
    ],
)
def test_an_episode_equals_the_original_to_the_bit(spatial: LiberoSuite, name: str, task_id: int) -> None:
    """Bowls, cans and cartons, drawers, a stove, a microwave; pictures of 256 px at five moments."""
    suite = LiberoSuite(name, image_size=SIZE)
    ours = suite.make(task_id)
    ours.reset_to("eval", 3)
    expert = None if (name, task_id) == ("libero_10", 9) else suite.make_expert(task_id, seed=0)
    step = -1
    with original_environment(ours, seed=0) as original:
        with no_pictures(original):
            original.set_init_state(installed(ours).official_states()[3])
            for _ in range(10):
                original.step(SETTLE)
        assert np.array_equal(original.sim.model.body_pos, ours.scene.model.body_pos)
        for step, action in enumerate(mixed_actions(ours, expert)):
            compare(ours, original, action, pictures=EVERY_PICTURE or step % 50 == 49 or step == 0)
    assert step == 199
    ours.close()


@pytest.mark.libero
def test_an_expert_episode_equals_the_original_to_the_bit(between_plate_and_ramekin: LiberoEnvironment) -> None:
    """Up to success, which both see in the same step."""
    ours = between_plate_and_ramekin
    ours.reset_to("eval", 5)
    expert = BowlExpert(ours.task, seed=0)
    expert.reset(ours)
    with original_environment(ours, seed=0) as original, no_pictures(original):
        original.set_init_state(installed(ours).official_states()[5])
        for _ in range(10):
            original.step(SETTLE)
        while not all(ours.scene.goal_predicates()):
            compare(ours, original, expert.act(ours).tolist(), pictures=False)


@pytest.mark.libero
def test_training_states_are_what_the_original_samples(spatial: LiberoSuite) -> None:
    """Task 4 draws an open drawer and puts a bowl into it, the longest chain of dependent draws in this suite."""
    ours = spatial.make(4)
    assert isinstance(ours, LiberoEnvironment)
    ours.scene.load(installed(ours).place("train", 7))
    with original_environment(ours, seed=sampling_seed(ours.task, "train", 7)) as original:
        assert np.array_equal(original.get_sim_state(), ours.scene.flattened_state())
        assert np.array_equal(original.sim.model.body_pos, ours.scene.model.body_pos)
        assert np.array_equal(original.sim.model.body_quat, ours.scene.model.body_quat)
