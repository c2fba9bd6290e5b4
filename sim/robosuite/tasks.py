"""robosuite's tasks as data: names, instructions and horizons. The order is this project's."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from sim.contract import Split
from sim.libero.tasks import LiberoTask

SUITE = "robosuite"


@dataclass(frozen=True)
class RobosuiteTask(LiberoTask):
    """One task. robosuite stores no initial states, so that their digest is empty: they are drawn by seeds."""

    environment: str
    """robosuite's name of it."""
    horizon: int
    """Control steps of an episode."""


_TABLE = (
    ("lift", "Lift", "lift the red cube", 400),
    ("stack", "Stack", "put the red cube on the green cube", 400),
    ("door", "Door", "open the door", 400),
    ("nut_assembly_square", "NutAssemblySquare", "put the square nut on the square peg", 400),
    ("nut_assembly_round", "NutAssemblyRound", "put the round nut on the round peg", 400),
    ("nut_assembly", "NutAssembly", "put each nut on its peg", 800),
    ("pick_place_can", "PickPlaceCan", "put the can into its bin", 400),
    ("pick_place_milk", "PickPlaceMilk", "put the milk into its bin", 400),
    ("pick_place_bread", "PickPlaceBread", "put the bread into its bin", 400),
    ("pick_place_cereal", "PickPlaceCereal", "put the cereal into its bin", 400),
    ("pick_place", "PickPlace", "put everything into its bin", 1000),
    ("wipe", "Wipe", "wipe the dirt off the table", 600),
)

TASKS = tuple(
    RobosuiteTask(SUITE, index, name, instruction, "", environment, horizon)
    for index, (name, environment, instruction, horizon) in enumerate(_TABLE)
)


def state_seed(task: RobosuiteTask, split: Split, index: int) -> int:
    """Seed (32 bits) of one initial state; depends only on its arguments, so it is the same everywhere."""
    return zlib.crc32(f"{task.suite}/{task.name}/{split}/{index}".encode())
