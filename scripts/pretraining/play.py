"""Randomised play for pretraining: scenes, instructions, layouts and looks, none of whose tasks is an evaluated one.

What is held out: every (skill, object) pair of the suite's ten tasks (for example picking up the red cube) and with it
every instruction of the suite, in any wording. The skills themselves, colours, shapes and sentences are shared, as a
large model's pretraining shares them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.tabletop.goals import (
    ButtonPressed,
    DrawerOpened,
    DrawerShut,
    Goal,
    InDrawer,
    Lifted,
    PlacedOn,
    Pushed,
)
from sim.tabletop.scene import COLOURS, DRAWER_TRAVEL, Appearance, MovableObject, Plate, Scene
from sim.tabletop.tasks import LEFT, RIGHT, TASKS, Layout, Task, sample_layout

Generator = np.random.Generator
HORIZON = 180
SUITE_VERBS = {"lift": "pick up", "grasp": "pick up", "place": "put", "slide": "push"}


@dataclass(frozen=True)
class Skill:
    """How often play shows a skill, and what a scene must hold for it."""

    share: float
    objects: int = 1
    """Least number of movable objects."""
    plate: bool = False
    drawer: bool = False
    button: bool = False


SKILLS: dict[str, Skill] = {
    "pick": Skill(0.14),
    "place": Skill(0.2, plate=True),
    "stack": Skill(0.12, objects=2),
    "push": Skill(0.13),
    "open_drawer": Skill(0.06, objects=0, drawer=True),
    "shut_drawer": Skill(0.04, objects=0, drawer=True),
    "put_in_drawer": Skill(0.07, drawer=True),
    "open_and_put": Skill(0.09, drawer=True),
    "press": Skill(0.05, objects=0, button=True),
    "press_and_pick": Skill(0.09, button=True),
    "place_two": Skill(0.05, objects=2, plate=True),
    "place_both": Skill(0.17, objects=2, plate=True),
}
MOST_OBJECTS = 3
MOST_THINGS = 4
"""Objects and plates that a table has room for; a drawer or a button takes the room of one."""


def held_out_pairs() -> frozenset[tuple[str, str]]:
    """(goal kind, object name) of every goal of the evaluated tasks that names an object."""
    return frozenset(_pairs(goal for task in TASKS for goal in task.goals))


def canonical_instruction(instruction: str) -> str:
    """An instruction with each verb of play replaced by the suite's own for the same skill."""
    return " ".join(SUITE_VERBS.get(word, word) for word in instruction.split())


def _pairs(goals: object) -> list[tuple[str, str]]:
    return [(type(goal).__name__, goal.item) for goal in goals if hasattr(goal, "item")]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Play:
    """One randomised task and where it starts."""

    task: Task
    layout: Layout


def sample_play(generator: Generator) -> Play:
    """Draw a task and a layout. Deterministic in the generator's state."""
    excluded, instructions = held_out_pairs(), {task.instruction for task in TASKS}
    while True:
        task, slide = _sample_task(generator)
        same_words = canonical_instruction(task.instruction) in instructions
        if not same_words and not excluded.intersection(_pairs(task.goals)):
            break
    layout = sample_layout(task.scene, generator)
    joint_noise = generator.normal(0.0, 0.06, 7) * np.array([1.0, 1.0, 1.0, 1.5, 1.0, 1.0, 1.0])
    joint_noise[0] += generator.uniform(-0.25, 0.25)
    return Play(task, replace(layout, drawer_slide=slide, joint_noise=joint_noise))


def colour_jitter(generator: Generator, rgba: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every geom's colour [n, 4] scaled by up to 12 % per channel and shifted slightly."""
    changed = rgba.copy()
    changed[:, :3] *= generator.uniform(0.88, 1.12, (len(rgba), 3))
    changed[:, :3] += generator.uniform(-0.03, 0.03, (len(rgba), 3))
    return np.clip(changed, 0.0, 1.0)


def _sample_appearance(generator: Generator) -> Appearance:
    base = Appearance()
    table = np.clip(
        np.asarray(base.table_colour) + generator.uniform(-0.05, 0.05, 3) + generator.uniform(-0.12, 0.12), 0.1, 0.9
    )
    return Appearance(
        # Small: a camera that looks elsewhere by 1 cm moves every object by 1 cm, and nothing in the picture tells.
        camera_position=_jitter(base.camera_position, 0.02, generator),
        camera_target=_jitter(base.camera_target, 0.003, generator),
        camera_fovy=base.camera_fovy + float(generator.uniform(-0.7, 0.7)),
        wrist_offset=_jitter(base.wrist_offset, 0.002, generator),
        wrist_tilt=base.wrist_tilt + float(generator.uniform(-0.015, 0.015)),
        table_colour=(float(table[0]), float(table[1]), float(table[2])),
        light=float(generator.uniform(0.55, 0.95)),
        light_position=_jitter(base.light_position, 0.3, generator),
    )


def _jitter(values: tuple[float, float, float], amount: float, generator: Generator) -> tuple[float, float, float]:
    x, y, z = np.asarray(values) + generator.uniform(-amount, amount, 3)
    return float(x), float(y), float(z)


def _choice(generator: Generator, options: list[str]) -> str:
    return options[int(generator.integers(len(options)))]


def _distinct_objects(generator: Generator, number: int) -> list[MovableObject]:
    kinds = [MovableObject(colour, shape) for colour in COLOURS for shape in ("cube", "cylinder")]
    return [kinds[index] for index in generator.choice(len(kinds), number, replace=False)]


def _distinct_colours(generator: Generator, number: int) -> list[str]:
    colours = list(COLOURS)
    return [colours[index] for index in generator.choice(len(colours), number, replace=False)]


def _sample_task(generator: Generator) -> tuple[Task, float]:
    """A task and the drawer's starting slide (m)."""
    shares = np.array([skill.share for skill in SKILLS.values()])
    name = list(SKILLS)[int(generator.choice(len(SKILLS), p=shares / shares.sum()))]
    skill = SKILLS[name]
    drawer = skill.drawer or generator.random() < 0.06
    button = skill.button or (not drawer and generator.random() < 0.1)
    room = MOST_THINGS - drawer - button
    if name == "place_both":
        shape = ("cube", "cylinder")[int(generator.integers(2))]
        objects = [MovableObject(colour, shape) for colour in _distinct_colours(generator, 2)]
    else:
        most = min(MOST_OBJECTS, room - 1)
        objects = _distinct_objects(generator, int(generator.integers(skill.objects, most + 1)))
    plates: list[Plate] = []
    if skill.plate or generator.random() < 0.4:
        most = max(min(2, room - len(objects)), int(skill.plate))
        number = int(generator.integers(int(skill.plate), most + 1))
        plates = [Plate(colour) for colour in _distinct_colours(generator, number)]
    goals, instruction = _goals(name, objects, plates, generator)
    scene = Scene(
        objects=tuple(objects),
        plates=tuple(plates),
        drawer=_choice(generator, list(COLOURS)) if drawer else None,
        button=_choice(generator, list(COLOURS)) if button else None,
        appearance=_sample_appearance(generator),
    )
    slide = 0.0
    if name in ("shut_drawer", "put_in_drawer"):
        slide = float(generator.uniform(0.11, DRAWER_TRAVEL))
    return Task(f"play_{name}", instruction, scene, goals, HORIZON, any_order=name == "place_both"), slide


def _goals(
    skill: str, objects: list[MovableObject], plates: list[Plate], generator: Generator
) -> tuple[tuple[Goal, ...], str]:
    first = objects[0].name if objects else ""
    second = objects[1].name if len(objects) > 1 else ""
    plate = plates[0].name if plates else ""
    pick_verb = _choice(generator, ["pick up", "pick up", "pick up", "lift", "grasp"])
    put_verb = _choice(generator, ["put", "put", "place"])
    if skill == "pick":
        return (Lifted(first),), f"{pick_verb} the {first}"
    if skill == "place":
        return (PlacedOn(first, plate),), f"{put_verb} the {first} on the {plate}"
    if skill == "stack":
        verb = _choice(generator, ["stack", "stack", "put"])
        return (PlacedOn(first, second),), f"{verb} the {first} on the {second}"
    if skill == "push":
        side, direction = (("left", LEFT), ("right", RIGHT))[int(generator.integers(2))]
        verb = _choice(generator, ["push", "push", "slide"])
        return (Pushed(first, direction),), f"{verb} the {first} to the {side}"
    if skill == "open_drawer":
        return (DrawerOpened(),), _choice(generator, ["open the drawer", "pull open the drawer"])
    if skill == "shut_drawer":
        return (DrawerShut(),), _choice(generator, ["close the drawer", "shut the drawer"])
    if skill == "put_in_drawer":
        return (InDrawer(first),), f"{put_verb} the {first} in the drawer"
    if skill == "open_and_put":
        return (DrawerOpened(), InDrawer(first)), f"open the drawer and {put_verb} the {first} in it"
    if skill == "press":
        return (ButtonPressed(),), _choice(generator, ["press the button", "push the button"])
    if skill == "press_and_pick":
        return (ButtonPressed(), Lifted(first)), f"press the button and then {pick_verb} the {first}"
    goals = (PlacedOn(first, plate), PlacedOn(second, plate))
    if skill == "place_both":
        return goals, f"{put_verb} both {objects[0].shape}s on the {plate}"
    return goals, f"{put_verb} the {first} and the {second} on the {plate}"
