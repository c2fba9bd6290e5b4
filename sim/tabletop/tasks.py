"""The ten tasks of the embedded suite and how their initial states are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, Split
from sim.tabletop.goals import (
    ButtonPressed,
    DrawerOpened,
    Goal,
    InDrawer,
    Lifted,
    PlacedOn,
    Pushed,
    WorldState,
    task_progress,
)
from sim.tabletop.scene import MovableObject, Plate, Scene

Array = NDArray[np.float64]

NUM_INIT_STATES = 50
"""Initial states per task and split."""
LEFT = (0.0, -1.0)
"""Left and right are as seen in the third-person picture."""
RIGHT = (0.0, 1.0)


@dataclass(frozen=True)
class Task:
    """One language-conditioned task."""

    name: str
    instruction: str
    scene: Scene
    goals: tuple[Goal, ...]
    """Reached in this order, unless `any_order`; the task succeeds when all hold at once."""
    horizon: int
    """Control steps before truncation."""
    any_order: bool = False
    """The instruction names no order ("both") of the goals, which are all `PlacedOn`."""

    def ordered_goals(self, world: WorldState) -> tuple[Goal, ...]:
        """The goals in the order in which someone who shows the task reaches them.

        Where the instruction names none the picture must, so that the next thing to do can be seen: from left to right.
        """
        if not self.any_order:
            return self.goals
        return tuple(sorted(self.goals, key=lambda goal: _initial_left_to_right(goal, world)))

    def progress(self, world: WorldState) -> float:
        """True progress in [0, 1]."""
        return task_progress(self.goals, world, any_order=self.any_order)


def _initial_left_to_right(goal: Goal, world: WorldState) -> float:
    assert isinstance(goal, PlacedOn)
    return float(world.initial_objects[goal.item][1])


@dataclass(frozen=True)
class Layout:
    """Where everything starts. Positions in metres on the table plane, yaw in radians."""

    objects: Array
    """[n, 3]: x, y, yaw."""
    plates: Array
    """[m, 2]"""
    drawer_x: float
    drawer_slide: float
    button: Array
    """[2]"""
    joint_noise: Array
    """[7] added to the arm's rest position (rad)."""


_CUBES = Scene(objects=(MovableObject("red", "cube"), MovableObject("blue", "cube")))
_PLATES = Scene(objects=(MovableObject("green", "cylinder"),), plates=(Plate("white"), Plate("yellow")))
_PUSH = Scene(objects=(MovableObject("orange", "cube"), MovableObject("cyan", "cylinder")))
_DRAWER = Scene(objects=(MovableObject("purple", "cube"),), drawer="green")
_BUTTON = Scene(objects=(MovableObject("yellow", "cylinder"), MovableObject("pink", "cube")), button="red")
_TIDY = Scene(
    objects=(MovableObject("blue", "cylinder"), MovableObject("orange", "cylinder")), plates=(Plate("black"),)
)

TASKS: tuple[Task, ...] = (
    Task("pick_red", "pick up the red cube", _CUBES, (Lifted("red cube"),), 48),
    Task("pick_blue", "pick up the blue cube", _CUBES, (Lifted("blue cube"),), 48),
    Task("stack", "stack the red cube on the blue cube", _CUBES, (PlacedOn("red cube", "blue cube"),), 64),
    Task(
        "place_white",
        "put the green cylinder on the white plate",
        _PLATES,
        (PlacedOn("green cylinder", "white plate"),),
        64,
    ),
    Task(
        "place_yellow",
        "put the green cylinder on the yellow plate",
        _PLATES,
        (PlacedOn("green cylinder", "yellow plate"),),
        64,
    ),
    Task("push_left", "push the orange cube to the left", _PUSH, (Pushed("orange cube", LEFT),), 48),
    Task("push_right", "push the orange cube to the right", _PUSH, (Pushed("orange cube", RIGHT),), 48),
    Task(
        "drawer",
        "open the drawer and put the purple cube in it",
        _DRAWER,
        (DrawerOpened(), InDrawer("purple cube")),
        128,
    ),
    Task(
        "button_pick",
        "press the button and then pick up the yellow cylinder",
        _BUTTON,
        (ButtonPressed(), Lifted("yellow cylinder")),
        80,
    ),
    Task(
        "tidy",
        "put both cylinders on the black plate",
        _TIDY,
        (PlacedOn("blue cylinder", "black plate"), PlacedOn("orange cylinder", "black plate")),
        128,
        any_order=True,
    ),
)


def get_task(task_id: int) -> Task:
    """The task of that number. Raises `EnvironmentRequestError` naming the known ones."""
    if not isinstance(task_id, int) or isinstance(task_id, bool) or not 0 <= task_id < len(TASKS):
        known = ", ".join(f"{index} {task.name}" for index, task in enumerate(TASKS))
        raise EnvironmentRequestError(f"tabletop has no task {task_id!r}; its tasks are {known}")
    return TASKS[task_id]


def initial_layout(task_id: int, split: Split, init_state_id: int, count: int = NUM_INIT_STATES) -> Layout:
    """The stored initial state of that number, of `count`: a pure function of its arguments, on every machine.

    The two splits use different seed streams, so no training state is ever an evaluation state.
    """
    task = get_task(task_id)
    if split not in ("train", "eval"):
        raise EnvironmentRequestError(f"split must be 'train' or 'eval', not {split!r}")
    if not 0 <= init_state_id < count:
        raise EnvironmentRequestError(
            f"tabletop task {task_id} has {count} {split} initial states (0 to {count - 1}), not number {init_state_id}"
        )
    stream = {"train": 1, "eval": 2}[split]
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([20260101, stream, task_id, init_state_id])))
    return sample_layout(task.scene, generator)


def sample_layout(scene: Scene, generator: np.random.Generator) -> Layout:
    """Draw where everything stands, without overlaps, by rejection."""
    drawer_x = float(generator.uniform(-0.05, 0.05))
    drawer_slide = 0.0
    # With a drawer the left half of the table (+y) is its swing space.
    right_edge = -0.03 if scene.drawer else 0.18
    radii = [0.03] * len(scene.objects) + [0.065] * len(scene.plates) + [0.045] * (1 if scene.button else 0)
    for _ in range(10_000):
        points = np.column_stack(
            [generator.uniform(-0.12, 0.10, len(radii)), generator.uniform(-0.18, right_edge, len(radii))]
        )
        clear = all(
            np.linalg.norm(points[i] - points[j]) > radii[i] + radii[j] + 0.025
            for i in range(len(radii))
            for j in range(i)
        )
        if clear:
            break
    else:
        raise EnvironmentRequestError("this scene has too many things to place them on the table without overlap")
    number, plates = len(scene.objects), len(scene.plates)
    yaw = generator.uniform(-0.25, 0.25, number)
    return Layout(
        objects=np.column_stack([points[:number], yaw]) if number else np.zeros((0, 3)),
        plates=points[number : number + plates],
        drawer_x=drawer_x,
        drawer_slide=drawer_slide,
        button=points[-1] if scene.button else np.zeros(2),
        joint_noise=generator.uniform(-0.03, 0.03, 7),
    )
