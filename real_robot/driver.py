"""Who decides on the actions of a session: a policy, from which a person may take over, or a person alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from real_robot.control.inference import Decide, check_continues
from real_robot.control.schedulers import ActionSource, Scheduler, Timing, make_scheduler
from real_robot.deploy_settings import DeployConfig
from real_robot.robots import Robot, decide_on
from real_robot.session_settings import SessionConfig
from real_robot.teleoperation.person import Hands, Person, TakeOver
from real_robot.teleoperation.teleoperator import Teleoperator
from sim.contract import Observation
from vla.errors import ReflexError
from vla.policies import load_policy
from vla.policies.fingerprint import policy_fingerprint
from vla.policies.protocol import Policy
from vla.run.cores import available_cpus
from vla.run.devices import resolve_device, set_threads
from vla.safety.filter import ActionFilter

PERSON = "person"
"""What a recording calls whoever drives where no policy does."""


@dataclass(frozen=True)
class Driver:
    """Who decides, as far as it is known before the arm may move."""

    name: str
    """The policy's, or `PERSON`."""
    facts: dict[str, Any]
    """What the recording says of it, JSON-ready."""
    decide: Decide | None = None
    """The policy; None where a person drives alone."""
    scheduler: Callable[[], Scheduler] | None = None
    """Makes the policy's strategy."""
    strategy: str = "teleoperation"
    horizon: int = 1
    """Actions that are decided on together."""

    def source(
        self, config: SessionConfig, teleoperator: Teleoperator | None, hands: Hands, action_filter: ActionFilter
    ) -> ActionSource:
        """Where the control loop takes its actions from."""
        person = None
        if teleoperator is not None:
            velocity = config.speed * np.array(action_filter.setup.limits.velocity)
            person = Person(
                teleoperator, hands, lambda: action_filter.state.position, velocity, config.max_action_delay
            )
        if self.scheduler is None:
            assert person is not None
            return person
        return self.scheduler() if person is None else TakeOver(self.scheduler(), person, hands)


def policy_driver(config: DeployConfig, robot: Robot, instruction: str, console: Console) -> Driver:
    """The policy of a deployment, loaded and warm. Raises `ReflexError` where it does not fit the robot."""
    set_threads(config.threads or max(1, available_cpus() - 1))
    policy = load_policy(config.policy, str(resolve_device(config.device)))
    decide = decide_on(robot, policy)
    check_strategy(config, policy, robot)
    seconds = warm_up(decide, robot, instruction)
    console.print(f"{policy.policy_id} on {robot.embodiment.describe()}; a decision takes {1e3 * seconds:.0f} ms")
    spec, frequency = policy.spec, robot.embodiment.control_frequency
    timing = Timing(
        frequency, config.execute_steps or spec.execute_steps, config.filter.max_age, config.max_action_delay
    )
    facts = {
        "policy": policy.policy_id,
        "strategy": config.strategy,
        "decision_ms": 1e3 * seconds,
        "policy_sha256": policy_fingerprint(policy),
    }
    return Driver(
        policy.policy_id,
        facts,
        decide,
        lambda: make_scheduler(config.strategy, timing, config.blend_steps, config.ensemble_decay),
        config.strategy,
        spec.chunk_horizon,
    )


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
