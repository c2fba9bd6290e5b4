"""The code behind `vla robot replay`: ask the filter again what it was asked, and, if wanted, play an episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.registry import arm_settings
from real_robot.recording.recorder import LOG_IN_DATASET, read_log
from vla.errors import ReflexError
from vla.run.run_folder import dated_folder
from vla.run.settings import Checks
from vla.safety.log import Row

FILTER_EVENTS = ("open", "start", "stand", "stop", "action")
"""Rows of a control log that the action filter wrote; the others say where episodes begin and end."""


@dataclass(frozen=True)
class ReplayConfig:
    """Which episode, and on which arm."""

    dataset: str
    """Dataset that vla deploy recorded; with dry=false any LeRobot dataset of the arm."""
    episode: int = 0
    """Number of the episode in the dataset."""
    rerun: str | None = None
    """dry=true: file to write the episode to for the Rerun viewer, such as out.rrd (the extra `rerun`)."""
    dry: bool = True
    """Only ask the filter again, and compare every answer; false plays the episode's actions on the arm."""
    robot: str = "simulated"
    """dry=false: the arm, as for vla deploy."""
    port: str | None = None
    """dry=false: serial port or address of the arm."""
    calibration: str | None = None
    """dry=false: calibration file of the arm."""
    robot_settings: dict[str, Any] = field(default_factory=dict)
    """dry=false: other settings of the arm."""
    speed: float = 0.3
    """dry=false: speed on the way to the first action, as a share of full speed."""
    reset_watchdog: bool = False
    """dry=false: the watchdog stopped this arm before; somebody has looked at it, and it may move again."""
    output: str = field(default_factory=partial(dated_folder, "replay"))
    """dry=false: folder for watchdog.jsonl."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.at_least(0, "episode")
        check.positive("speed")
        check.within(0, 1, "speed", reason="a share of full speed")
        if self.rerun is not None and not (self.dry and self.rerun.endswith(".rrd")):
            raise ReflexError(f"rerun is {self.rerun!r}; it names a file that ends in .rrd, and needs dry=true")

    def arm_settings(self) -> dict[str, Any]:
        """What the arm is made of."""
        return arm_settings(self.robot_settings, self.port, self.calibration)


def replay_episode(config: ReplayConfig) -> dict[str, Any]:
    """Ask again, or play; returns what came of it.

    Raises `ReflexError` where there is no such dataset, episode or log, and where an answer differs by a bit.
    """
    from vla.data.lerobot_reader import LeRobotDataset  # here, so that --help needs none of what it brings

    dataset = LeRobotDataset(config.dataset)
    if config.episode >= dataset.num_episodes:
        raise ReflexError(f"{config.dataset} has episodes 0 to {dataset.num_episodes - 1}, not {config.episode}")
    actions = dataset.episode(config.episode, cameras=()).actions
    if not config.dry:
        return play(config, actions.astype(np.float64), dataset.embodiment.action.names)
    rows = read_log(dataset.root / LOG_IN_DATASET)
    found = ask_again(rows, config.episode, actions)
    if config.rerun is not None:
        from real_robot.recording.rerun_export import export_episode

        export_episode(dataset.episode(config.episode), rows_of(rows, config.episode), Path(config.rerun))
        found["rerun"] = config.rerun
    return found


def rows_of(rows: list[Row], episode: int) -> list[Row]:
    """The control steps [T] of a recorded episode. Raises `ReflexError` where the log has none of that number."""
    kept = [row for row in rows if row["event"] == "episode_end" and row["kept"]]
    if episode >= len(kept):
        raise ReflexError(f"the log has {len(kept)} recorded episodes, so none is number {episode}")
    number, left_out = kept[episode]["number"], kept[episode].get("left_out", 0)
    return [row for row in rows if row["event"] == "action" and row.get("episode") == number][left_out:]


def ask_again(rows: list[Row], episode: int, actions: NDArray[np.float32]) -> dict[str, Any]:
    """Ask a filter of the log's settings everything that the log's was asked; compare answers, and one episode's
    actions [T, A] with what the log says was commanded.

    Raises `ReflexError` naming what differs.
    """
    from real_robot.robots import hand_by_name
    from vla.safety.replay import replay

    robot = next((row["robot"] for row in rows if row["event"] == "run"), "")
    asked = replay([row for row in rows if row["event"] in FILTER_EVENTS], hand_by_name(robot))
    commanded = [row["control"]["commanded"] for row in rows_of(rows, episode)]
    differing = list(asked.differences)
    if not np.array_equal(np.array(commanded, np.float64).astype(np.float32).reshape(actions.shape[0], -1), actions):
        differing.append(f"the actions of episode {episode}, and those of the log")
    if differing:
        raise ReflexError(
            f"{len(differing)} answers are not what they were, first: {differing[0]}; the filter's code, or the file, "
            "is another than at the time"
        )
    return {"bit_identical": True, "filter_actions": asked.actions, "episode_steps": len(actions)}


def play(config: ReplayConfig, actions: NDArray[np.float64], names: tuple[str, ...]) -> dict[str, Any]:
    """Go to the first action slowly, then command the actions [T, J] at the arm's rate, through the filter."""
    from real_robot.arms.arm import ArmError
    from real_robot.control.moves import Mover
    from real_robot.robots import open_robot
    from real_robot.watchdog.guard import Guard, latch_path
    from real_robot.watchdog.settings import Latch, alone_with_arm
    from vla.safety.filter import ActionFilter

    output = Path(config.output)
    latch = latch_path(config.robot, config.arm_settings())
    Latch(latch).check(config.reset_watchdog)
    rows: list[Row] = []
    with alone_with_arm(latch), open_robot(config.robot, config.arm_settings(), {}) as robot:
        arm = robot.arm
        if names != arm.limits.names:
            raise ReflexError(
                f"the dataset's actions are {', '.join(names)}; the arm's are {', '.join(arm.limits.names)}"
            )
        action_filter = ActionFilter(arm.limits, 1.0 / arm.embodiment.control_frequency, hand=robot.hand)
        output.mkdir(parents=True, exist_ok=True)
        with Guard(robot.spec, output / "watchdog.jsonl", latch, stdin=True) as guard:
            try:
                arm.connect()
                action_filter.start(arm.observe().positions)
                guard.arm()
                mover = Mover(arm, action_filter, guard, rows.append, robot.hand)
                ending = mover.go_to(actions[0], config.speed) or mover.follow(actions) or mover.come_to_rest()
            except (ArmError, ValueError) as error:
                raise ReflexError(f"robot={config.robot}: {error}") from error
            finally:
                arm.disconnect()
                guard.release()
    played = np.array([row["commanded"] for row in rows if row["phase"] == "replay"])
    farthest = np.abs(played - actions[: len(played)]).max() if len(played) else 0.0
    if ending is not None:
        raise ReflexError(f"the replay ended with: {ending}, after {len(played)} of {len(actions)} actions")
    return {"actions": len(played), "largest_change_by_filter": float(farthest), "approach_steps": len(rows)}
