"""Reflex from Python: an environment, a policy, fine-tuning, training and evaluation in a line each.

    import vla

    policy = vla.load_policy("reflex-tiny")
    environment = vla.make("tabletop", "pick_red")
    observation, _ = environment.reset(seed=0)
    chunk = policy.select_action(observation)

Whatever these functions take is a setting of the command of the same name; `vla COMMAND --help` lists them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium

from vla.policies.protocol import Policy

__all__ = ["evaluate", "fine_tune", "load_policy", "make", "train"]


def make(
    suite: str, task: int | str = 0, *, image_size: int | None = None, flat: bool = False
) -> gymnasium.Env[Any, Any]:
    """An environment of one task.

    Args:
        suite: a suite's name, or package.module:Suite of your own.
        task: its number or name.
        image_size: side of the pictures in pixels; None for the suite's own.
        flat: observations without nesting and text, as stable-baselines3 takes them.

    Returns:
        A gymnasium environment. Its observations are `{"images": {camera: uint8 [H, W, 3]}, "state": float32 [S],
        "instruction": str}`, its actions float32 [A] in the units of `environment.unwrapped.embodiment`.

    Raises:
        EnvironmentRequestError: an unknown suite or task, or packages that are missing.
    """
    from sim.registration import make_environment

    return make_environment(suite, task, image_size, flat)


def load_policy(name: str | Path, device: str = "cpu") -> Policy:
    """A policy by folder, run folder or shipped name, of whatever family its configuration names.

    Its `select_action(observation)` gives the chunk [H, A] to execute; `act` decides for many environments at once.

    Raises:
        ReflexError: nothing is there, or it cannot be read.
    """
    from vla.policies.registry import load_policy as load

    return load(name, device)


def evaluate(
    policy: str | Policy,
    suite: str = "tabletop",
    *,
    tasks: list[int] | None = None,
    episodes_per_task: int = 50,
    num_slots: int = 16,
    num_workers: int | None = None,
    image_size: int | None = None,
) -> dict[str, Any]:
    """Success of a policy on held-out initial states, greedily. Nothing is written; `vla eval` writes a report.

    Args:
        policy: a policy, or what `load_policy` takes.
        suite: a suite's name, or package.module:Suite of your own.
        tasks: task numbers; None for all.
        episodes_per_task: initial states of each task, from the first on.
        num_slots: episodes that run at the same time.
        num_workers: simulator processes; None for one per core, 0 for this process.
        image_size: side of the pictures in pixels; None for the suite's own.

    Returns:
        `success_rate`, `episodes`, `wilson_low` and `wilson_high` (95 %), and `tasks`: success of each by number.

    Raises:
        ReflexError: the policy, a task or an initial state cannot be used.
    """
    from sim.pool import EnvironmentPool
    from sim.suites import get_suite
    from vla.evaluation.runner import evaluate as run
    from vla.policies.connect import connected
    from vla.run.cores import worker_count

    chosen = load_policy(policy) if isinstance(policy, str | Path) else policy
    found = get_suite(suite, image_size)
    with (
        connected(chosen, found.embodiment),
        EnvironmentPool(suite, num_slots, worker_count(num_workers, num_slots), image_size) as pool,
    ):
        result = run(chosen, found, pool, tasks=tasks, episodes_per_task=episodes_per_task)
    return {**result.summary(), "tasks": {task.task_id: task.success_rate for task in result.per_task}}


def fine_tune(**settings: Any) -> dict[str, Any]:
    """Supervised fine-tuning on demonstrations, as `vla sft`: `fine_tune(dataset=..., policy=..., output=...)`.

    Returns the summary that is written into the output folder. Raises `ReflexError` naming a setting at fault.
    """
    from vla.imitation.fine_tune import FineTuneConfig
    from vla.imitation.fine_tune import fine_tune as run

    return _run("sft", FineTuneConfig, run, settings)


def train(**settings: Any) -> dict[str, Any]:
    """Reinforcement learning, as `vla train`: `train(policy="runs/sft", suite="tabletop", tasks=[0], output=...)`.

    A setting within a group has a dictionary: `algo={"learning_rate": 1e-4}`.
    Returns the summary that is written into the output folder. Raises `ReflexError` naming a setting at fault.
    """
    from vla.rl.config import TrainConfig
    from vla.rl.loop import train as run

    return _run("train", TrainConfig, run, settings)


def _run(command: str, config: type[Any], runner: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Compose a command's configuration from Python values and run it."""
    from vla.conf.compose import compose_config

    result: dict[str, Any] = runner(compose_config(command, config, list(_overrides(settings))).build())
    return result


def _overrides(settings: dict[str, Any], prefix: str = "") -> Any:
    """`{"a": {"b": 1}}` -> "a.b=1", with texts quoted so that they stay as they are."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _overrides(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={_written(value)}"


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(_written(item) for item in value) + "]"
    if isinstance(value, str | Path):
        escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)
