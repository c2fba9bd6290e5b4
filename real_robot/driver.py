"""Who decides on the actions of a session: a policy, from which a person may take over, or a person alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from real_robot.control.inference import Decide
from real_robot.control.schedulers import ActionSource, Scheduler, Timing, make_scheduler
from real_robot.deploy_settings import DeployConfig
from real_robot.preparation import check_strategy, warm_up
from real_robot.robots import Robot, decide_on
from real_robot.session_settings import SessionConfig
from real_robot.teleoperation.person import Hands, Person, TakeOver
from real_robot.teleoperation.teleoperator import Teleoperator
from vla.policies import load_policy
from vla.policies.fingerprint import policy_fingerprint
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
                teleoperator, hands, lambda: action_filter.state.position, velocity, config.max_action_delay,
                action_filter.setup.period,
            )  # fmt: skip
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
