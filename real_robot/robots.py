"""From settings to a robot: an arm, its cameras, its hand, and the embodiment that a policy is connected to."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import Arm, ArmError
from real_robot.arms.registry import make_arm
from real_robot.cameras.camera import Camera, CameraConfig
from real_robot.control.inference import Decide, decide_with
from real_robot.control.schedulers import UnderWay
from real_robot.control.sensors import Camera as FrameSource
from real_robot.watchdog.settings import ArmSpec
from sim.contract import Observation
from sim.embodiments import Camera as Pictures
from sim.embodiments import Embodiment
from vla.errors import ReflexError
from vla.policies.connect import connect
from vla.policies.protocol import Policy
from vla.safety.workspace import HandModel, Volumes

HANDS = {"so101": "sim.so101.hand:SO101Hand"}
"""Embodiment -> the class of its `HandModel`, for arms that bring none of their own."""


@runtime_checkable
class SimulatedHere(Protocol):
    """An arm that is simulated in this process: it has cameras, tasks and successes of its own."""

    environment: Any
    has_succeeded: bool
    """Whether the task was done since the last reset."""

    def camera(self, name: str) -> FrameSource:
        """One of its cameras."""

    def reset(self, init_state: int | None = None) -> None:
        """Put the scene in an initial state."""


@runtime_checkable
class TakesChanges(Protocol):
    """An arm told positions that knows what a policy's changes of them add up to."""

    delta_embodiment: Embodiment
    """What such policies are made for; its cameras do not count."""

    def positions_of(self, changes: NDArray[np.float64], state: NDArray[np.float32]) -> NDArray[np.float64]:
        """Positions [H, J] that changes [H, A] ask for, from the state [S] that they were decided on."""


@dataclass(frozen=True)
class Robot:
    """An arm and what belongs to it."""

    arm: Arm
    embodiment: Embodiment
    """The arm's, with the cameras that are there."""
    cameras: Mapping[str, FrameSource]
    hand: HandModel | None
    spec: ArmSpec | None
    """How the watchdog makes a handle of its own; None for an arm that is simulated in this process."""


def make_arm_by_settings(robot: str, settings: Mapping[str, Any]) -> Arm:
    """An arm, not yet connected. Raises `ReflexError` for whatever is wrong with the settings or its files."""
    try:
        return make_arm(robot, settings)
    except ArmError as error:
        raise ReflexError(f"robot={robot}: {error}") from error


@contextmanager
def open_robot(
    robot: str, settings: Mapping[str, Any], cameras: Mapping[str, str], frozen_after: float | None = None
) -> Iterator[Robot]:
    """The robot with its cameras open; the arm is not connected yet.

    `cameras` are name -> source, with the sizes that the arm's embodiment says; sizes of other names are the first's.
    `frozen_after` is as of `CameraConfig`.
    Raises `ReflexError` naming the setting that is wrong or missing.
    """
    arm = make_arm_by_settings(robot, settings)
    check_joint_positions(arm)
    hand = hand_of(arm)
    if isinstance(arm, SimulatedHere):
        if cameras:
            known = ", ".join(arm.embodiment.camera_names)
            raise ReflexError(f"robot={robot} has cameras of its own ({known}); leave cameras out")
        own = {name: arm.camera(name) for name in arm.embodiment.camera_names}
        yield Robot(arm, arm.embodiment, own, hand, None)
        return
    spec = ArmSpec("real_robot.robots:make_arm_by_settings", {"robot": robot, "settings": dict(settings)})
    with ExitStack() as stack:
        configs = _configs(arm, cameras, frozen_after)
        opened = {name: stack.enter_context(Camera(config)) for name, config in configs.items()}
        seen = tuple(Pictures(name, config.height, config.width) for name, config in configs.items())
        yield Robot(arm, dataclasses.replace(arm.embodiment, cameras=seen), opened, hand, spec)


def _configs(arm: Arm, cameras: Mapping[str, str], frozen_after: float | None) -> dict[str, CameraConfig]:
    """A source may end with its size: `0@480x640`."""
    known = {camera.name: camera for camera in arm.embodiment.cameras}
    configs = {}
    for name, source in cameras.items():
        place, at, size = str(source).rpartition("@")
        height, x, width = size.partition("x")
        if at and x and height.isdigit() and width.isdigit():
            configs[name] = CameraConfig(name, place, int(height), int(width), frozen_after=frozen_after)
            continue
        default = known.get(name) or next(iter(known.values()))
        configs[name] = CameraConfig(name, str(source), default.height, default.width, frozen_after=frozen_after)
    return configs


def decide_on(robot: Robot, policy: Policy) -> Decide:
    """The policy, connected to the robot, as it decides on positions. Raises `ReflexError` where it does not fit.

    The changes of a policy that knows nothing else are added up from where the arm was observed to be, a chunk at a
    time, so that all that follows (how chunks join, the filter, its log) is the same as for positions.
    """
    arm = robot.arm
    if policy.spec.embodiment.action.kind != "end_effector_delta" or not isinstance(arm, TakesChanges):
        connect(policy, robot.embodiment, side="robot")
        return decide_with(policy)
    connect(policy, dataclasses.replace(robot.embodiment, action=arm.delta_embodiment.action), side="robot")
    decide = decide_with(policy)

    def decide_positions(observation: Observation, under_way: UnderWay | None) -> NDArray[np.float64]:
        if under_way is not None:
            raise ReflexError(
                f"strategy=rtc continues actions under way, which are positions here, and {policy.policy_id} decides "
                "on changes of them; use strategy=async"
            )
        return arm.positions_of(decide(observation, None), observation["state"])

    return decide_positions


def check_joint_positions(arm: Arm) -> None:
    """Raise `ReflexError` unless the arm is told the joint positions that its limits name, in their order."""
    action = arm.embodiment.action
    if action.kind != "joint_position" or action.names != arm.limits.names:
        raise ReflexError(
            f"{arm.embodiment.name} is told {action.kind} ({', '.join(action.names)}) and has limits of "
            f"{', '.join(arm.limits.names)}; the control loop commands joint positions, which must be the same numbers"
        )


def hand_of(arm: Arm) -> HandModel | None:
    """Where the arm's hand is; None where the limits name no place for it.

    Raises `ReflexError` for limits that name places and an arm of which nobody says where its hand is.
    """
    own: HandModel | None = getattr(arm, "hand", None)
    if own is not None or Volumes.of(arm.limits) is None:
        return own
    hand = hand_by_name(arm.embodiment.name)
    if hand is None:
        raise ReflexError(
            f"the limits of {arm.embodiment.name} name a workspace or keep-out volumes, and nothing says where its "
            "hand is; give the arm's class an attribute `hand` (vla.safety.workspace.HandModel), or take them out of "
            "the robot file"
        )
    return hand


def hand_by_name(robot: str) -> HandModel | None:
    """The hand of a known embodiment; None for another."""
    if robot not in HANDS:
        return None
    module, _, name = HANDS[robot].partition(":")
    hand: HandModel = getattr(importlib.import_module(module), name)()
    return hand
