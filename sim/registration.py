"""gymnasium ids of every suite's tasks: `import sim`, then `gymnasium.make("reflex/tabletop-pick_red-v0")`.

A process that has not imported `sim` finds them with the module in front: `gymnasium.make("sim:reflex/...")`, which is
what vector environments need whose workers start afresh. Tasks have their number as an id
(`reflex/libero_spatial-3-v0`), and their name too where the suite is embedded here.
Nothing of a suite is imported before one of its environments is made.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from sim.contract import EnvironmentRequestError, ManipulationEnvironment
from sim.core.flat import FlatObservation
from sim.metaworld.tasks import TASKS as METAWORLD_TASKS

NUMBERED = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
"""Suites whose tasks are known by number, and how many there are."""

NAMED = {
    "tabletop": (
        "pick_red",
        "pick_blue",
        "stack",
        "place_white",
        "place_yellow",
        "push_left",
        "push_right",
        "drawer",
        "button_pick",
        "tidy",
    ),
    "robosuite": (
        "lift",
        "stack",
        "door",
        "nut_assembly_square",
        "nut_assembly_round",
        "nut_assembly",
        "pick_place_can",
        "pick_place_milk",
        "pick_place_bread",
        "pick_place_cereal",
        "pick_place",
        "wipe",
    ),
    "metaworld": tuple(task.name for task in METAWORLD_TASKS),
    "so101": ("reach_red", "lift_red", "place_blue"),
}
"""Suites whose tasks have short names, in the order of their numbers. Written out here so that no suite is imported
(MetaWorld's are text in a file of their own)."""


def make_environment(
    suite: str,
    task: int | str,
    image_size: int | None = None,
    flat: bool = False,
    render_mode: str | None = "rgb_array",
) -> gymnasium.Env[Any, Any]:
    """One environment of a suite's task, by number or name.

    Args:
        suite: a name or import path that `sim.suites.get_suite` knows.
        task: number, or name as `Suite.task_name` says it.
        image_size: side of the pictures in pixels; None for the suite's own.
        flat: observations as stable-baselines3 takes them (`sim.core.flat.FlatObservation`).
        render_mode: "rgb_array"; there is no window.

    Raises:
        EnvironmentRequestError: an unknown suite or task, missing packages, or another render mode.
    """
    from sim.suites import get_suite

    if render_mode not in (None, "rgb_array"):
        raise EnvironmentRequestError(f"render_mode {render_mode!r} is not offered; use 'rgb_array'")
    found = get_suite(suite, image_size)
    environment: ManipulationEnvironment = found.make(_number(found, task))
    environment.render_mode = render_mode
    return FlatObservation(environment) if flat else environment


def _number(suite: Any, task: int | str) -> int:
    if not isinstance(task, str):
        return task
    names: dict[str, int] = {suite.task_name(number): number for number in suite.task_ids}
    if task not in names:
        raise EnvironmentRequestError(f"{suite.name} has no task {task!r}, only {', '.join(names)}")
    return names[task]


def register_environments() -> None:
    """Register every task of every suite. Safe to call twice."""
    for suite, count in NUMBERED.items():
        for number in range(count):
            _register(suite, number)
    for suite, names in NAMED.items():
        for number, name in enumerate(names):
            _register(suite, number)
            _register(suite, name)


def _register(suite: str, task: int | str) -> None:
    name = f"reflex/{suite}-{task}-v0"
    if name not in gymnasium.registry:
        gymnasium.register(
            id=name, entry_point="sim.registration:make_environment", kwargs={"suite": suite, "task": task}
        )
