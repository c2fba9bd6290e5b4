"""Ours against MetaWorld's own environments: initial states, physics, observations, rewards and success, to the bit."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from sim.metaworld.shared_model import SharedModel
from sim.metaworld.simulation import TaskSimulation
from sim.metaworld.suite import MetaWorldSuite
from sim.metaworld.tasks import ACTION_REPEAT, HORIZON, SEEDS, TASKS

metaworld = pytest.importorskip("metaworld")

NUMBERS = {task.name: number for number, task in enumerate(TASKS)}

# A body that is moved before the door settles; draws that are repeated until goal and puck are apart; a free object.
CASES = [("door-lock", "train"), ("push", "eval"), ("peg-insert-side", "eval")]
if os.environ.get("EVERY_TASK"):  # three minutes
    CASES = [(task.name, split) for task in TASKS for split in SEEDS]


def original(name: str, split: Any, index: int) -> tuple[Any, Any]:
    """MetaWorld's benchmark of one task, and its environment reset to an initial state."""
    benchmark = metaworld.MT1(f"{name}-v3", seed=SEEDS[split])
    environment = benchmark.train_classes[f"{name}-v3"]()
    environment.set_task(benchmark.train_tasks[index])
    environment.reset()
    return benchmark, environment


def actions(count: int) -> list[np.ndarray[Any, Any]]:
    """Random motion, then down onto the table, gripper closing."""
    generator = np.random.default_rng(3)
    random = [generator.uniform(-1.0, 1.0, 4).astype(np.float32) for _ in range(count // 2)]
    return random + [np.array([0.1, 0.3, -1.0, 1.0], np.float32)] * (count - len(random))


def test_tasks_are_metaworlds_in_its_order() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

    names = [f"{task.name}-v3" for task in TASKS]
    assert names == list(ALL_V3_ENVIRONMENTS)
    assert set(names) <= set(ENV_POLICY_MAP)


@pytest.mark.parametrize(("name", "split"), CASES)
def test_an_episode_equals_metaworlds_to_the_bit(name: str, split: Any) -> None:
    benchmark, theirs = original(name, split, 7)
    ours = MetaWorldSuite("metaworld_state").make(NUMBERS[name])
    drawn = ours.simulation.shared.initial_vectors(split)
    for number in (0, 49):
        theirs.set_task(benchmark.train_tasks[number])
        assert np.array_equal(theirs._last_rand_vec, drawn[number])
    theirs.set_task(benchmark.train_tasks[7])
    theirs.reset()
    ours.reset_to(split, 7)
    for action in actions(16):
        outcome = ours.advance(action)
        for _ in range(ACTION_REPEAT):
            observation, reward, _, _, info = theirs.step(action)
        assert np.array_equal(ours.simulation.data.qpos, theirs.data.qpos)
        assert np.array_equal(ours.simulation.data.qvel, theirs.data.qvel)
        seen = ours.simulation.observation
        # The frame before is four of MetaWorld's steps back here.
        assert np.array_equal(np.delete(seen, np.s_[18:36]), np.delete(observation, np.s_[18:36]))
        assert outcome.success == bool(info["success"])
        if name == "bin-picking":  # it notes at its first call where the cube was, and here that is the reset
            continue
        assert ours._evaluation.reward == reward
        assert outcome.progress == (1.0 if outcome.success else reward / 10.0)


def test_a_model_is_compiled_as_metaworld_compiles_it() -> None:
    task = TASKS[NUMBERS["drawer-open"]]
    shared = SharedModel(task)
    built = TaskSimulation(shared).task
    assert built.model is shared.model
    assert built.model.opt.timestep * built.frame_skip * ACTION_REPEAT == pytest.approx(1 / 20)
    assert built.max_path_length == HORIZON * ACTION_REPEAT
    assert built.action_scale == 0.01 and ACTION_REPEAT * built.action_scale == 0.04


def test_what_is_drawn_leaves_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002 - which MetaWorld draws from
    MetaWorldSuite("metaworld_state").make(NUMBERS["push"]).reset_to("train", 0)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
