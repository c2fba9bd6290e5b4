"""MetaWorld's tasks as data: order, instructions, seeds of initial states, and what the robot sees, feels and does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sim.contract import EnvironmentRequestError, Split
from sim.embodiments import Action, Camera, Embodiment, State

SUITE = "metaworld"

STATE_SUFFIX = "_state"
"""Behind the suite's name: states are MetaWorld's own 39 numbers, and there is a camera only if it is asked for."""

ACTION_REPEAT = 4
"""MetaWorld steps (80 Hz) for which an action is held: one control step, at 20 Hz."""

HORIZON = 125
"""Control steps of an episode: MetaWorld's 500 steps."""

NUM_INIT_STATES = 50
"""Initial states per task and split: as many as MetaWorld draws for a seed."""

TRAINING_STATES = 1000
"""Initial states of the training split of the variant with MetaWorld's own numbers; the first 50 are the same."""

SEEDS: dict[Split, int] = {"train": 1, "eval": 42}
"""Initial state i of a split is `metaworld.MT1(task, seed).train_tasks[i]` with this seed."""

IMAGE_SIZE = 64


@dataclass(frozen=True)
class Task:
    """One task."""

    name: str
    """MetaWorld's name without its version, e.g. drawer-open."""
    instruction: str
    expert_speed: float = 0.7
    """Share of MetaWorld's scripted commands that the expert gives. Chosen on training states, as the next."""
    expert_pause: int = 0
    """Control steps for which the expert's hand stays when its gripper begins to close."""


TASKS = (
    Task("assembly", "pick up the nut and put it over the peg"),
    Task("basketball", "put the ball into the basket", expert_speed=0.5),
    Task("bin-picking", "move the cube from the red bin to the blue bin", expert_pause=4),
    Task("box-close", "put the lid on the box", expert_pause=2),
    Task("button-press-topdown", "press the button from above"),
    Task("button-press-topdown-wall", "press the button behind the wall from above"),
    Task("button-press", "push the button in"),
    Task("button-press-wall", "reach over the wall and push the button in"),
    Task("coffee-button", "press the button of the coffee machine"),
    Task("coffee-pull", "pull the mug away from the coffee machine to the goal"),
    Task("coffee-push", "push the mug to the goal under the coffee machine"),
    Task("dial-turn", "turn the dial"),
    Task("disassemble", "lift the nut off the peg"),
    Task("door-close", "close the door"),
    Task("door-lock", "lock the door"),
    Task("door-open", "open the door"),
    Task("door-unlock", "unlock the door"),
    Task("hand-insert", "put the hand into the hole", expert_speed=1.0),
    Task("drawer-close", "close the drawer"),
    Task("drawer-open", "open the drawer"),
    Task("faucet-open", "open the faucet"),
    Task("faucet-close", "close the faucet"),
    Task("hammer", "hit the nail with the hammer"),
    Task("handle-press-side", "press the handle down from the side"),
    Task("handle-press", "press the handle down"),
    Task("handle-pull-side", "pull the handle up from the side"),
    Task("handle-pull", "pull the handle up"),
    Task("lever-pull", "pull the lever up", expert_speed=0.5),
    Task("pick-place-wall", "carry the puck over the wall to the goal"),
    Task("pick-out-of-hole", "pick the puck out of the hole and carry it to the goal"),
    Task("pick-place", "pick up the puck and carry it to the goal"),
    Task("plate-slide", "slide the plate into the goal"),
    Task("plate-slide-side", "slide the plate sideways into the goal"),
    Task("plate-slide-back", "slide the plate back out of the goal"),
    Task("plate-slide-back-side", "slide the plate sideways out of the goal"),
    Task("peg-insert-side", "put the peg into the hole in the side of the box", expert_speed=0.5),
    Task("peg-unplug-side", "pull the plug out of the socket"),
    Task("soccer", "push the ball into the goal", expert_speed=0.5),
    Task("stick-push", "push the thermos with the stick"),
    Task("stick-pull", "pull the thermos with the stick", expert_speed=0.6),
    Task("push", "push the puck to the goal"),
    Task("push-wall", "push the puck around the wall to the goal"),
    Task("push-back", "pull the block back to the goal"),
    Task("reach", "move the hand to the goal"),
    Task("reach-wall", "move the hand around the wall to the goal"),
    Task("shelf-place", "put the puck onto the shelf", expert_speed=0.5),
    Task("sweep-into", "sweep the block into the hole", expert_speed=0.5),
    Task("sweep", "sweep the block off the table"),
    Task("window-open", "open the window"),
    Task("window-close", "close the window"),
)
"""In MetaWorld's order: a task's place here is its number."""

_HAND = ("x", "y", "z", "gripper_opening")
_HAND_UNITS = ("m", "m", "m", "share")

_OBJECTS = tuple(
    f"{thing}_{number}"
    for thing in ("object", "second_object")
    for number in ("x", "y", "z", "quaternion_0", "quaternion_1", "quaternion_2", "quaternion_3")
)
_NOW = (*_HAND, *_OBJECTS)
_NOW_UNITS = (*_HAND_UNITS, *(("m",) * 3 + ("",) * 4) * 2)

SAWYER = Embodiment(
    name="sawyer",
    cameras=(Camera("image", IMAGE_SIZE, IMAGE_SIZE),),
    state=State(names=_HAND, units=_HAND_UNITS),
    action=Action(
        names=("x", "y", "z", "gripper"),
        kind="end_effector_delta",
        low=(-1.0,) * 4,
        high=(1.0,) * 4,
        gripper=3,
        stay=(0.0, 0.0, 0.0, -1.0),
    ),
    control_frequency=20,
)
"""A Sawyer arm whose hand always points down.

State: position of the hand (m, 3) and how far the gripper is open (share of 0.1 m). Action: change of the hand's goal,
whose full scale is 0.04 m along each axis, and the effort of the gripper (-1 opens, +1 closes)."""

SAWYER_TRUE_STATE = dataclasses.replace(
    SAWYER,
    name="sawyer_true_state",
    cameras=(),
    state=State(
        names=(*_NOW, *(f"previous_{name}" for name in _NOW), "goal_x", "goal_y", "goal_z"),
        units=(*_NOW_UNITS, *_NOW_UNITS, "m", "m", "m"),
    ),
)
"""The same arm without a camera, which is told where everything is: MetaWorld's own 39 numbers."""


def get_task(task_id: int) -> Task:
    """A task by number. Raises `EnvironmentRequestError` naming the known ones."""
    if isinstance(task_id, bool) or task_id not in range(len(TASKS)):
        listing = "; ".join(f"{number}: {task.name}" for number, task in enumerate(TASKS))
        raise EnvironmentRequestError(f"{SUITE} has tasks 0 to {len(TASKS) - 1}, not {task_id!r} ({listing})")
    return TASKS[task_id]


def count_init_states(suite: str, split: Split) -> int:
    """Initial states of each task in a split of `suite`, one of the two variants.

    Logs of hundreds of episodes from fifty states would teach a policy those fifty by heart, so the variant for
    policies that are told everything has more to train from.
    """
    return TRAINING_STATES if suite.endswith(STATE_SUFFIX) and split == "train" else NUM_INIT_STATES


def check_init_state(suite: str, split: Split, init_state_id: int) -> None:
    """Raise `EnvironmentRequestError` unless `split` and the number name one of a task's initial states."""
    if split not in SEEDS:
        raise EnvironmentRequestError(f"unknown split {split!r}; it is 'train' or 'eval'")
    count = count_init_states(suite, split)
    if not 0 <= init_state_id < count:
        raise EnvironmentRequestError(
            f"{suite} has {split} initial states 0 to {count - 1} of each task, not {init_state_id!r}"
        )
