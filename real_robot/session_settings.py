"""What can be set of every command that drives an arm through the control loop, whoever decides on the actions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from real_robot.arms.registry import arm_settings
from real_robot.watchdog.settings import Reaction
from vla.errors import ReflexError
from vla.run.run_folder import dated_folder
from vla.run.settings import Checks
from vla.safety.config import FilterConfig


@dataclass(frozen=True)
class SessionConfig:
    """Which arm is driven, and how it is watched, filtered and recorded."""

    robot: str = "simulated"
    """Arm: simulated (needs no hardware), so101, franka, or package.module:Class of your own."""
    port: str | None = None
    """Serial port or address of the arm, such as /dev/ttyACM0."""
    calibration: str | None = None
    """Calibration file of the arm, as lerobot-calibrate writes it."""
    robot_settings: dict[str, Any] = field(default_factory=dict)
    """Other settings of the arm, e.g. robot_settings.task=1 of the simulated one."""
    cameras: dict[str, str] = field(default_factory=dict)
    """Cameras by the names that the policy knows: a number, device or URL, with its size behind it where it is not the
    arm's own, e.g. cameras.front=0@480x640 (height x width)."""
    task: str | None = None
    """The instruction; null for the simulated arm's own task."""
    teleoperator: str | None = "keyboard"
    """What a person drives the arm with: keyboard, leader (a second SO-101 without torque), or package.module:Class of
    your own; null where nobody may take over from a policy."""
    leader_port: str | None = None
    """teleoperator=leader: its serial port, such as /dev/ttyACM1."""
    leader_calibration: str | None = None
    """teleoperator=leader: its calibration file, as lerobot-calibrate writes it."""
    teleoperator_settings: dict[str, Any] = field(default_factory=dict)
    """Other settings of the teleoperator, e.g. teleoperator_settings.step=0.02 of the keyboard."""
    max_seconds: float = 30.0
    """Longest episode."""
    episodes: int = 1
    """Episodes, one after another; an episode that faults or is stopped is the last."""
    pause_seconds: float = 0.0
    """Seconds in which the arm holds between episodes, to put the scene back."""
    start_pose: list[float] | None = None
    """Positions to go to before each episode; null starts from wherever the arm is."""
    park_pose: list[float] | None = None
    """Positions to go to at the end; null holds the arm where it is."""
    speed: float = 0.3
    """Speed on the way to start_pose, park_pose and a leader arm that takes over, as a share of full speed."""
    max_camera_age: float = 0.2
    """Seconds after which a picture is too old and the arm holds."""
    camera_frozen_after: float | None = 0.5
    """Seconds of equal pictures after which a camera counts as frozen and the arm holds; null for one whose pictures of
    a scene at rest may be equal to the bit."""
    max_action_delay: float = 0.1
    """Seconds after the moment that an action was meant for at which it has expired."""
    filter: FilterConfig = field(default_factory=FilterConfig)
    """What the action filter refuses, besides motion beyond the limits of the arm's file."""
    on_fault: Reaction = "hold"
    """What the watchdog does: hold where the arm is, stop, or torque_off (it then falls)."""
    watchdog_timeout: float = 0.25
    """Seconds without a sign of the control loop after which the watchdog takes the arm."""
    stop_file: str | None = None
    """File that is read over and over for an emergency button, such as a GPIO's value; unreadable counts as pressed."""
    stop_value: str = "1"
    """Content of stop_file that means stop."""
    reset_watchdog: bool = False
    """The watchdog stopped this arm before; somebody has looked at it, and it may move again."""
    page: int | None = None
    """Port of a web page for this machine's browsers that shows what happens, with a stop button, such as 8080; 0 takes
    a free port, null has no page."""
    record: bool = True
    """Write the episodes as a LeRobot dataset, in the run folder."""
    output: str = field(default_factory=partial(dated_folder, "session"))
    """Run folder to write."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.shared()
        check.at_least(1, "episodes")
        check.at_least(0, "pause_seconds")
        check.positive("max_seconds", "speed", "max_camera_age", "camera_frozen_after", "max_action_delay")
        check.within(0, 1, "speed", reason="a share of full speed")
        check.within(0, 65535, "page", reason="a port")
        check.within(0.1, 5, "watchdog_timeout", reason="shorter would trip by chance, longer would be no watchdog")
        if self.robot != "simulated" and not self.task:
            raise ReflexError("task is empty; say what the robot is to do, such as task='pick up the red block'")
        if self.teleoperator == "leader":
            self._check_leader()

    def _check_leader(self) -> None:
        given = self.leader_settings()
        if "port" not in given or "calibration" not in given:
            raise ReflexError(
                "teleoperator=leader needs leader_port=..., such as /dev/ttyACM1, and leader_calibration=..., the "
                "file that lerobot-calibrate or vla robot calibrate wrote for the leader"
            )
        if given["port"] == self.port:
            raise ReflexError(f"leader_port is {self.port!r}, which is the arm's own port; give the leader's")

    def arm_settings(self) -> dict[str, Any]:
        """What the arm is made of."""
        return arm_settings(self.robot_settings, self.port, self.calibration)

    def leader_settings(self) -> dict[str, Any]:
        """What the teleoperator is made of."""
        return arm_settings(self.teleoperator_settings, self.leader_port, self.leader_calibration)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)
