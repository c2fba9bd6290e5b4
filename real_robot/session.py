"""One session of a policy or a person with an arm, from the first check to the last report, in the order in which
things must happen.

Everything that can be refused is refused before the arm is connected; the watchdog is ready before the arm may move;
and whatever happens, the arm ends held, parked or stopped, and what was measured is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from real_robot.arms.arm import ArmError
from real_robot.control.inference import InferenceWorker
from real_robot.control.interrupts import Interruptible
from real_robot.control.loop import ControlLoop, LoopSettings
from real_robot.control.moves import Mover
from real_robot.control.steps import Ending, EpisodeResult, Step
from real_robot.control.timing import LatencyLog
from real_robot.driver import Driver
from real_robot.live import LiveLine, describe, show_result
from real_robot.page.feed import LivePage, listening
from real_robot.preparation import filter_settings
from real_robot.processes import LOOP, go_first
from real_robot.recording.recorder import EpisodeLabel, Recorder
from real_robot.robots import Robot, SimulatedHere, open_robot
from real_robot.session_settings import SessionConfig
from real_robot.teleoperation.teleoperator import Teleoperator, connected
from real_robot.watchdog.guard import Guard, latch_path
from real_robot.watchdog.settings import Latch, alone_with_arm
from vla.errors import ReflexError
from vla.run.files import write_json
from vla.run.run_folder import RunFolder
from vla.safety.filter import ActionFilter
from vla.safety.log import FilterLog, Row

SWITCH_INTERVAL = 0.0005
"""Seconds after which Python takes its lock from a thread that computes: the control loop must not wait for longer."""
WRITING_TAKES = 600.0
"""Seconds that an episode's videos may take to be written while the arm holds."""
LATENCY_STEPS = 200_000
"""Values kept of each stage: nearly two hours at 30 Hz."""


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before the arm may move."""

    config: SessionConfig
    run: RunFolder
    console: Console
    robot: Robot
    driver: Driver
    teleoperator: Teleoperator | None
    instruction: str
    latch: Path
    facts: dict[str, Any]
    """What makes this run repeatable: settings, hashes."""
    listener: socket.socket | None = None
    """Where the page's browsers connect."""
    latency: LatencyLog = field(default_factory=lambda: LatencyLog(LATENCY_STEPS))


def run_session(
    config: SessionConfig, prepare: Callable[[Robot, str], Driver], output: Path, console: Console
) -> dict[str, Any]:
    """Run the episodes and return what is written to summary.json. See `real_robot.deploy.deploy`.

    `prepare` makes ready who decides on the actions, for the robot and the instruction, before the arm is connected.
    """
    latch = latch_path(config.robot, config.arm_settings())
    Latch(latch).check(config.reset_watchdog)
    with (
        alone_with_arm(latch),
        listening(config.page) as listener,
        open_robot(config.robot, config.arm_settings(), config.cameras, config.camera_frozen_after) as robot,
        connected(config.teleoperator, config.leader_settings(), robot.arm) as teleoperator,
    ):
        instruction = config.task or str(getattr(robot.arm, "environment").instruction)  # noqa: B009
        driver = prepare(robot, instruction)
        with RunFolder(output) as run:
            run.write_config(config.to_dict())
            known = facts(config, driver, robot)
            prepared = Prepared(config, run, console, robot, driver, teleoperator, instruction, latch, known, listener)
            return _measured(prepared)


def _measured(prepared: Prepared) -> dict[str, Any]:
    """Drive, then write and show what came of it, however it ended."""
    session = Session(prepared)
    before, niceness = sys.getswitchinterval(), os.getpriority(os.PRIO_PROCESS, 0)
    sys.setswitchinterval(SWITCH_INTERVAL)
    go_first(LOOP)
    try:
        session.drive()
    finally:
        sys.setswitchinterval(before)
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
    summary = session.write()
    show_result(prepared.console, prepared.run.path, summary, prepared.latency.report())
    if session.interrupted:
        raise KeyboardInterrupt
    if session.ending in (Ending.STOPPED, Ending.FAULT):
        detail = session.results[-1].detail if session.results else ""
        raise ReflexError(
            f"the deployment ended with: {session.ending}{': ' if detail else ''}{detail}; see {prepared.run.path}"
        )
    return summary


class Session:
    """One session on a robot that everything is known of."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared, self._config, self._arm = prepared, prepared.config, prepared.robot.arm
        self.results: list[EpisodeResult] = []
        self.ending: Ending | None = None
        """What ended it before its time."""
        self.interrupted = False
        """Whether Ctrl-C ended it."""
        self.dropped = 0
        """Steps that the recorder could not take."""
        self._seams: dict[str, Any] = {}

    def drive(self) -> None:
        """Connect, run all episodes, and leave the arm held, parked or stopped. Raises `ReflexError`."""
        prepared, config = self._prepared, self._config
        run = prepared.run.path
        settings, period = filter_settings(config.filter, self._arm), 1.0 / prepared.robot.embodiment.control_frequency
        action_filter = ActionFilter(self._arm.limits, period, settings, prepared.robot.hand)
        recorder = Recorder(run, prepared.robot.embodiment, prepared.facts, dataset=config.record)
        watchdog = self._guard()
        page = self._page(watchdog)
        # The innermost ends first: the arm is let go of before the watchdog is, and that before the dataset is merged.
        # The page ends after the watchdog, whose last words it shows.
        with recorder, page, watchdog as guard:
            try:
                self._arm.connect()
                action_filter.start(self._arm.observe().positions)
                for camera in prepared.robot.cameras.values():
                    camera.latest()  # a simulated one prepares to draw at its first picture
                guard.arm()
                self._run_episodes(guard, action_filter, recorder, page)
            except (ArmError, ValueError) as error:
                self.ending = Ending.FAULT
                raise ReflexError(f"robot={config.robot}: {error}") from error
            finally:
                self._leave(guard)
                self.dropped = recorder.dropped
                page.end(self.ending)

    def _guard(self) -> Guard:
        config, run = self._config, self._prepared.run.path
        return Guard(
            self._prepared.robot.spec,
            run / "watchdog.jsonl",
            self._prepared.latch,
            reaction=config.on_fault,
            timeout=config.watchdog_timeout,
            stdin=True,
            pipe=run / "operator",
            stop_file=None if config.stop_file is None else Path(config.stop_file),
            stop_value=config.stop_value,
        )

    def _page(self, guard: Guard) -> LivePage:
        prepared, config = self._prepared, self._config
        about = {
            "instruction": prepared.instruction,
            "policy": prepared.driver.name,
            "strategy": prepared.driver.strategy,
            "horizon": prepared.driver.horizon,
            "episodes": config.episodes,
            "max_seconds": config.max_seconds,
            "max_camera_age": config.max_camera_age,
            "run": str(prepared.run.path),
        }
        embodiment = prepared.robot.embodiment
        return LivePage(prepared.listener, embodiment, guard.settings, prepared.latency, prepared.console, about)

    def _run_episodes(self, guard: Guard, action_filter: ActionFilter, recorder: Recorder, page: LivePage) -> None:
        prepared, config = self._prepared, self._config
        driver, frequency = prepared.driver, prepared.robot.embodiment.control_frequency
        source = driver.source(config, prepared.teleoperator, guard, action_filter)
        worker_of = nullcontext(None) if driver.decide is None else InferenceWorker(driver.decide)
        pulse = Interruptible(guard)

        def on_row(row: Row) -> None:
            recorder.add_rows([row])
            page.show_move(row)

        mover = Mover(self._arm, action_filter, pulse, on_row, prepared.robot.hand)
        recorder.add_rows([{"event": "run", **prepared.facts}])
        record_filter(action_filter, recorder)
        with pulse, worker_of as worker, LiveLine(prepared.console, frequency) as live:

            def on_step(step: Step) -> None:
                recorder.add(step)
                live.show(step)
                page.show(step)

            def on_gap() -> None:
                action_filter.stand()
                recorder.add_rows([{"event": "stand"}])

            loop = ControlLoop(
                self._arm, prepared.robot.cameras, action_filter.filter, source, worker,
                LoopSettings(frequency, config.max_camera_age), prepared.latency, pulse, on_step, on_gap,
            )  # fmt: skip
            try:
                episodes = Episodes(prepared, loop, mover, action_filter, recorder, page, self.results, pulse, guard)
                self.ending = episodes.run()
            finally:
                self._seams, self.interrupted = loop.seams.report(), pulse.interrupted
                guard.rest()  # a policy whose server is gone is waited for, longer than a silence is forgiven otherwise

    def _leave(self, guard: Guard) -> None:
        """Let go of the arm: held under power, or stopped; the watchdog is told, and tries where this fails."""
        guard.rest()  # nothing moves the arm any more, and one that does not answer takes longer to hold than to miss
        try:
            if self.ending is Ending.STOPPED:
                self._arm.stop(torque_off=self._config.on_fault == "torque_off")
            else:
                self._arm.hold()
        except ArmError as error:
            self._prepared.console.print(f"[bold red]the arm did not take its last command:[/] {error}")
            self._arm.disconnect()
            guard.fail()
            return
        self._arm.disconnect()
        guard.release()

    def write(self) -> dict[str, Any]:
        """Write latency.json and summary.json; returns the summary."""
        prepared = self._prepared
        missed = sum(result.missed for result in self.results)
        steps = sum(result.steps for result in self.results)
        decisions: Counter[str] = Counter()
        for result in self.results:
            decisions.update(result.decisions)
        latency = {
            "unit": "ms",
            "strategy": prepared.driver.strategy,
            "frequency": prepared.robot.embodiment.control_frequency,
            "control_steps": steps,
            "missed_steps": missed,
            "stages": prepared.latency.report(),
            "seam_jumps": self._seams,
        }
        write_json(prepared.run.path / "latency.json", latency)
        summary = {
            **prepared.facts,
            "ending": None if self.ending is None else str(self.ending),
            "episodes": len(self.results),
            "successes": sum(result.success for result in self.results),
            "control_steps": steps,
            "missed_steps": missed,
            "decisions": {name: count for name, count in decisions.items() if count},
            "dropped_steps": self.dropped,
            "results": [dataclasses.asdict(result) for result in self.results],
        }
        prepared.run.write_summary(summary)
        return summary


@dataclass
class Episodes:
    """The episodes of a session, one after another."""

    prepared: Prepared
    loop: ControlLoop
    mover: Mover
    action_filter: ActionFilter
    recorder: Recorder
    page: LivePage
    results: list[EpisodeResult]
    pulse: Interruptible
    guard: Guard

    def run(self) -> Ending | None:
        """All episodes, then the park pose; the ending that cut it short, if any did."""
        config = self.prepared.config
        for number in range(config.episodes):
            ending = self._prepare(number)
            if ending is not None:
                return ending
            result, ending = self._play(number)
            self.prepared.console.print(f"episode {number + 1} of {config.episodes}: {describe(result)}")
            if ending is not None:
                return ending
            if self.pulse.interrupted:
                return Ending.OPERATOR
        return self._until_written(0.0) or self._go_to(config.park_pose)

    def _prepare(self, number: int) -> Ending | None:
        """Wait, put the scene back and go to the start pose."""
        config, arm = self.prepared.config, self.prepared.robot.arm
        if number and (ending := self._until_written(config.pause_seconds)) is not None:
            return ending
        if number and isinstance(arm, SimulatedHere):
            arm.reset(int(config.robot_settings.get("init_state", 0)) + number)
            self.action_filter.start(self.prepared.robot.arm.observe().positions)
            record_filter(self.action_filter, self.recorder)
        return self._go_to(config.start_pose)

    def _play(self, number: int) -> tuple[EpisodeResult, Ending | None]:
        """An episode until the arm rests, and what ends the session, if anything. Only then is it written."""
        prepared = self.prepared
        steps = round(prepared.config.max_seconds * prepared.robot.embodiment.control_frequency)
        self.recorder.open_episode(EpisodeLabel(number, prepared.instruction, prepared.driver.name), steps)
        success = False
        self.page.begin(number)
        try:
            result = self.loop.run(prepared.instruction, steps, self._done, lambda: self.recorder.failure)
            self.page.finish(result)
            self.results.append(result)
            prepared.run.append_episodes([{"episode": number, **dataclasses.asdict(result)}], step=number)
            success = result.success
            return result, self._settle(result)
        finally:
            self.recorder.close_episode(success)

    def _settle(self, result: EpisodeResult) -> Ending | None:
        """Come to rest within the limits, unless somebody ordered a stop or the arm fails; what ends the session."""
        ordered = result.ending is Ending.STOPPED and not self.action_filter.stopped
        if ordered or result.arm_failed:
            return result.ending
        ending = self.mover.come_to_rest()
        return ending if result.goes_on else result.ending

    def _done(self) -> bool:
        arm = self.prepared.robot.arm
        return isinstance(arm, SimulatedHere) and arm.has_succeeded

    def _until_written(self, pause: float) -> Ending | None:
        """Hold until the episode before is written and the pause is over.

        Writing a long episode keeps Python's lock for moments that would be too long for an arm in motion.
        """
        until = time.monotonic() + pause
        self.guard.rest()
        ending = self.mover.hold_while(lambda: self.recorder.busy or time.monotonic() < until, WRITING_TAKES + pause)
        self.guard.arm()
        self.recorder.check()
        return ending

    def _go_to(self, pose: list[float] | None) -> Ending | None:
        return None if pose is None else self.mover.go_to(np.array(pose, np.float64), self.prepared.config.speed)


def record_filter(action_filter: ActionFilter, recorder: Recorder) -> None:
    """The filter began: so does its part of the log."""
    log = FilterLog()
    log.open(action_filter.setup)
    log.add_start(action_filter.state.position)
    recorder.add_rows(log.take())


def facts(config: SessionConfig, driver: Driver, robot: Robot) -> dict[str, Any]:
    """What makes a run repeatable, JSON-ready."""
    text = json.dumps(config.to_dict(), sort_keys=True, default=str)
    return {
        "robot": robot.embodiment.name,
        **driver.facts,
        "teleoperator": config.teleoperator,
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "embodiment": robot.embodiment.to_dict(),
    }
