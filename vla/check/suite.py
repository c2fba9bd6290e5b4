"""Whether a suite keeps `sim.contract`: shapes, determinism, disjoint splits, bad actions, ends, worker processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, ManipulationEnvironment, Observation, Split, Suite
from sim.pool import EnvironmentPool, EpisodeRequest
from vla.check.findings import Broken, Finding, require, run_checks
from vla.rollout.actors import Random

STEPS = 6
"""Control steps that are compared where an episode is played twice."""

STARTS = 5
"""Initial states of each split that are compared with each other."""


def check_suite(suite: Suite, tasks: Sequence[int]) -> Iterator[Finding]:
    """Findings about a suite and some of its tasks."""
    yield from run_checks("suite", [("describes itself", partial(_describes_itself, suite))])
    for task in tasks:
        try:
            environment = suite.make(task)
        except Exception as error:  # noqa: BLE001 - whatever a user's code raises is the finding
            yield from run_checks(f"task {task}", [("can be built", partial(_raise, error))])
            continue
        rules = [
            ("observations fit the embodiment", partial(_observations_fit, suite, environment)),
            ("an observation stays as it was handed out", partial(_observations_stay, environment)),
            ("the same start and actions give the same episode", partial(_is_deterministic, suite, environment)),
            ("training and evaluation start from different states", partial(_splits_differ, suite, environment)),
            ("unknown initial states are refused", partial(_refuses_unknown_states, suite, environment)),
            ("NaN and misshapen actions are refused", partial(_refuses_bad_actions, environment)),
            ("an episode ends at the horizon", partial(_ends_at_horizon, suite, environment)),
            ("the expert's actions fit the embodiment", partial(_expert_fits, suite, environment)),
            ("gymnasium's methods agree with the pool's", partial(_gymnasium_agrees, environment)),
        ]
        yield from run_checks(f"task {task}", rules)
        environment.close()


def check_workers(suite: Suite, name: str, image_size: int | None) -> Iterator[Finding]:
    """Findings about the suite in a worker process, which imports it by `name`."""
    yield from run_checks(
        "suite", [("acts alike in a worker process", partial(_same_in_worker, suite, name, image_size))]
    )


def _raise(error: Exception) -> None:
    raise error


def _describes_itself(suite: Suite) -> None:
    require(suite.task_ids == tuple(range(len(suite.task_ids))), f"task_ids is {suite.task_ids}; number tasks from 0")
    require(suite.task_ids, "there is no task")
    for task in suite.task_ids:
        require(suite.task_name(task), f"task {task} has no name")
        require(suite.horizon(task) >= 1, f"the horizon of task {task} is {suite.horizon(task)}")
        for split in ("train", "eval"):
            count = suite.num_init_states(task, split)
            require(count >= 1, f"task {task} has {count} initial states in split {split}")
    try:
        suite.task_name(len(suite.task_ids))
    except EnvironmentRequestError:
        pass
    else:
        raise Broken("an unknown task has a name; raise EnvironmentRequestError that lists the known ones")
    json.dumps(suite.protocol())


def _observations_fit(suite: Suite, environment: ManipulationEnvironment) -> None:
    environment.reset_to("train", 0)
    observation = environment.render_observation()
    robot = suite.embodiment
    require(environment.embodiment == robot, "environment.embodiment differs from suite.embodiment")
    found, wanted = sorted(observation["images"]), sorted(robot.camera_names)
    require(found == wanted, f"pictures of cameras {found}; the embodiment has {wanted}")
    for camera in robot.cameras:
        frame = observation["images"][camera.name]
        shape = (camera.height, camera.width, 3)
        require(
            frame.dtype == np.uint8 and frame.shape == shape,
            f"{camera.name} gives {frame.dtype} {frame.shape}; the embodiment says uint8 {shape}",
        )
        require(frame.std() > 0, f"{camera.name} shows one colour only")
    state = observation["state"]
    require(
        state.dtype == np.float32 and state.shape == (robot.state.size,),
        f"the state is {state.dtype} {state.shape}; the embodiment says float32 ({robot.state.size},)",
    )
    require(np.isfinite(state).all(), f"the state is not finite: {state.tolist()}")
    require(np.array_equal(state, environment.robot_state()), "robot_state() differs from the observation's state")
    require(
        observation["instruction"] == suite.instruction(environment.task_id), "instruction differs from the suite's"
    )


def _observations_stay(environment: ManipulationEnvironment) -> None:
    environment.reset_to("train", 0)
    before = environment.render_observation()
    copies = {camera: frame.copy() for camera, frame in before["images"].items()}
    state = before["state"].copy()
    for action in _actions(environment, 3):
        environment.advance(action)
    environment.render_observation()
    # The pool copies what it keeps, so that this is a warning for gymnasium's users only where a picture is reused.
    changed = [camera for camera, copy in copies.items() if not np.array_equal(before["images"][camera], copy)]
    require(
        not changed and np.array_equal(before["state"], state),
        f"a later step wrote over {changed or 'the state'}; copy",
    )


def _is_deterministic(suite: Suite, environment: ManipulationEnvironment) -> None:
    fresh = suite.make(environment.task_id)
    one = _played(environment, "train", 0)
    for label, other in (
        ("again", _played(environment, "train", 0)),
        ("in a fresh environment", _played(fresh, "train", 0)),
    ):
        for step, (left, right) in enumerate(zip(one, other, strict=True)):
            difference = _difference(left, right)
            require(
                not difference, f"{difference} differ at step {step} when played {label} from the same initial state"
            )
    fresh.close()


def _splits_differ(suite: Suite, environment: ManipulationEnvironment) -> None:
    starts: dict[Split, list[NDArray[np.float64]]] = {"train": [], "eval": []}
    for split, found in starts.items():
        for number in range(min(STARTS, suite.num_init_states(environment.task_id, split))):
            environment.reset_to(split, number)
            found.append(_as_numbers(environment.render_observation()))
    for number, start in enumerate(starts["eval"]):
        twins = [other for other, known in enumerate(starts["train"]) if np.array_equal(start, known)]
        require(
            not twins,
            f"evaluation state {number} is training state {twins[:1]}: results would be of what was trained on",
        )


def _refuses_unknown_states(suite: Suite, environment: ManipulationEnvironment) -> None:
    for number in (-1, suite.num_init_states(environment.task_id, "train")):
        try:
            environment.reset_to("train", number)
        except EnvironmentRequestError:
            continue
        raise Broken(f"reset_to('train', {number}) is accepted; raise EnvironmentRequestError")


def _refuses_bad_actions(environment: ManipulationEnvironment) -> None:
    size = environment.embodiment.action.size
    for label, action in (
        ("NaN", np.full(size, np.nan, np.float32)),
        (f"{size + 1} numbers", np.zeros(size + 1, np.float32)),
    ):
        environment.reset_to("train", 0)
        try:
            environment.advance(action)
        except EnvironmentRequestError:
            continue
        raise Broken(f"an action of {label} is executed; raise EnvironmentRequestError")


def _ends_at_horizon(suite: Suite, environment: ManipulationEnvironment) -> None:
    environment.reset_to("train", 0)
    horizon = suite.horizon(environment.task_id)
    require(environment.horizon == horizon, f"environment.horizon is {environment.horizon}, suite.horizon {horizon}")
    for step, action in enumerate(_actions(environment, horizon), start=1):
        outcome = environment.advance(action)
        require(0 <= outcome.progress <= 1, f"progress is {outcome.progress} at step {step}; it lies in 0 .. 1")
        require(np.isfinite(outcome.cost), f"cost is {outcome.cost} at step {step}")
        require(
            not (outcome.success and outcome.truncated), f"step {step} succeeds and is truncated; it is one or neither"
        )
        if outcome.done:
            require(outcome.success or step == horizon, f"truncated at step {step}; the horizon is {horizon}")
            return
    raise Broken(f"not over after {horizon} steps, its horizon; set truncated")


def _expert_fits(suite: Suite, environment: ManipulationEnvironment) -> None:
    try:
        expert = suite.make_expert(environment.task_id, seed=0)
    except EnvironmentRequestError:
        return  # a suite need not have one
    environment.reset_to("train", 0)
    expert.reset(environment)
    action = np.asarray(expert.act(environment))
    shape = (environment.embodiment.action.size,)
    require(
        action.shape == shape and np.isfinite(action).all(), f"the expert gives {action}; an action has shape {shape}"
    )


def _gymnasium_agrees(environment: ManipulationEnvironment) -> None:
    observation, info = environment.reset(options={"split": "train", "init_state_id": 0})
    environment.reset_to("train", 0)
    difference = _difference(_as_numbers(observation), _as_numbers(environment.render_observation()))
    require(not difference, "reset(options=...) and reset_to start from different states")
    action = _actions(environment, 1)[0]
    outcome = environment.advance(action)
    environment.reset(options={"split": "train", "init_state_id": 0})
    _, _, terminated, truncated, info = environment.step(action)
    require((terminated, truncated) == (outcome.success, outcome.truncated), "step() and advance() end differently")
    lacking = {"success", "cost", "progress"} - set(info)
    require(not lacking, f"info lacks {', '.join(sorted(lacking))}")


def _same_in_worker(suite: Suite, name: str, image_size: int | None) -> None:
    request = EpisodeRequest(suite.task_ids[0], "train", 0)
    environment = suite.make(request.task_id)
    alone = _played(environment, request.split, request.init_state_id)
    actions = np.stack(_actions(environment, STEPS))
    with EnvironmentPool(name, 1, 1, image_size) as pool:
        seen = [pool.reset([0], [request])[0]]
        result = pool.step_chunk([0], actions[None], frame_stride=1)[0]
    seen += [*result.extra_observations, result.observation]
    for step, (left, right) in enumerate(zip(alone, map(_as_numbers, seen), strict=True)):
        require(np.array_equal(left, right), f"a worker process sees something else at step {step}")


def _actions(environment: ManipulationEnvironment, count: int) -> list[NDArray[np.float32]]:
    """The same random commands every time."""
    actor = Random(np.random.default_rng(0))
    return [actor.act(environment) for _ in range(count)]


def _played(environment: ManipulationEnvironment, split: Split, init_state_id: int) -> list[NDArray[np.float64]]:
    """What is seen at the start and after each of `STEPS` steps, or until the end."""
    environment.reset_to(split, init_state_id)
    seen = [_as_numbers(environment.render_observation())]
    for action in _actions(environment, STEPS):
        done = environment.advance(action).done
        seen.append(_as_numbers(environment.render_observation()))
        if done:
            break
    return seen


def _as_numbers(observation: Observation) -> NDArray[np.float64]:
    parts: list[Any] = [observation["state"], *(frame.reshape(-1) for frame in observation["images"].values())]
    return np.concatenate([np.asarray(part, np.float64) for part in parts])


def _difference(left: NDArray[np.float64], right: NDArray[np.float64]) -> str:
    if left.shape != right.shape:
        return f"{len(left)} and {len(right)} numbers"
    count = int((left != right).sum())
    return f"{count} of {len(left)} numbers" if count else ""
