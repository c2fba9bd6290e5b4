"""What is checked and measured before the arm is connected: whether all fits, and what makes a run repeatable."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from real_robot.arms.arm import Arm
from real_robot.control.inference import Decide, check_continues
from real_robot.deploy_settings import DeployConfig
from real_robot.robots import Robot
from sim.contract import Observation
from vla.errors import ReflexError
from vla.policies.protocol import Policy
from vla.safety.config import FilterConfig


def filter_settings(config: FilterConfig, arm: Arm) -> FilterConfig:
    """The filter's settings, with the greatest tracking error of the arm's file where none was set."""
    said = getattr(arm, "max_tracking_error", None)
    if config.max_tracking_error is not None or said is None:
        return config
    return dataclasses.replace(config, max_tracking_error=list(said))


def check_strategy(config: DeployConfig, policy: Policy, robot: Robot) -> None:
    """Raise `ReflexError` for a strategy that the policy cannot follow, or whose actions would grow too old."""
    if config.strategy == "rtc":
        check_continues(policy)
    spec = policy.spec
    steps = config.execute_steps or spec.execute_steps
    if steps > spec.chunk_horizon:
        raise ReflexError(f"execute_steps is {steps}; {policy.policy_id} decides on {spec.chunk_horizon} actions")
    needed = steps / robot.embodiment.control_frequency
    if needed >= config.filter.max_age:
        raise ReflexError(
            f"{steps} actions at {robot.embodiment.control_frequency:g} Hz take {needed:.2f} s, and filter.max_age="
            f"{config.filter.max_age:g} forbids actions that old; set execute_steps lower or filter.max_age higher"
        )


def warm_up(decide: Decide, robot: Robot, instruction: str) -> float:
    """Seconds that a decision takes, after a first one that loads and compiles what later ones use."""
    images = {camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in robot.embodiment.cameras}
    state = np.zeros(robot.embodiment.state.size, np.float32)
    observation = Observation(images=images, state=state, instruction=instruction)
    decide(observation, None)
    began = time.monotonic()
    decide(observation, None)
    return time.monotonic() - began
