"""The code behind `vla robot teleoperate`: a person drives an arm, and every episode is a demonstration."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from real_robot.session_settings import SessionConfig
from vla.errors import ReflexError
from vla.run.run_folder import dated_folder


@dataclass(frozen=True)
class TeleoperateConfig(SessionConfig):
    """Which arm a person drives, with what, and what is recorded."""

    output: str = field(default_factory=partial(dated_folder, "teleoperate"))
    """Run folder to write."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teleoperator is None:
            raise ReflexError("teleoperator is null; give keyboard, leader or package.module:Class of your own")


def teleoperate(config: TeleoperateConfig) -> dict[str, Any]:
    """Let a person drive all episodes, and return what is written to summary.json.

    It is a session like that of `real_robot.deploy.deploy`: the same loop, filter, watchdog and recorder. Raises
    `ReflexError` as that does.
    """
    from rich.console import Console  # here, so that --help needs none of what follows

    from real_robot.deploy import NOTICE
    from real_robot.driver import PERSON, Driver
    from real_robot.robots import Robot
    from real_robot.session import run_session
    from real_robot.teleoperation.keyboard import key_table

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold]{NOTICE}[/]")

    def prepare(robot: Robot, instruction: str) -> Driver:
        if config.teleoperator == "keyboard":
            console.print(f"keys, up/down: {key_table(robot.arm.limits.names)}")
        return Driver(PERSON, {"policy": PERSON})

    return run_session(config, prepare, Path(config.output), console)
