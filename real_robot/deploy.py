"""The code behind `vla deploy`: a policy drives an arm, watched, filtered, recorded and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from real_robot.deploy_settings import DeployConfig

__all__ = ["NOTICE", "DeployConfig", "deploy"]

NOTICE = (
    "This is not a safety-rated system. Its filter and its watchdog run on a computer, which can fail. A hardware "
    "emergency stop that cuts the arm's power must be within reach, and nobody within reach of the arm."
)


def deploy(config: DeployConfig) -> dict[str, Any]:
    """Run the episodes and return what is written to summary.json.

    Raises `ReflexError` for whatever is wrong before the arm moves: settings, a policy for another robot, an arm that
    the watchdog stopped; and afterwards where the arm failed or was stopped, when everything is written.
    """
    from rich.console import Console  # here, so that --help needs none of what follows

    from real_robot.driver import Driver, policy_driver
    from real_robot.robots import Robot
    from real_robot.session import run_session

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold]{NOTICE}[/]")

    def prepare(robot: Robot, instruction: str) -> Driver:
        return policy_driver(config, robot, instruction, console)

    return run_session(config, prepare, Path(config.output), console)
