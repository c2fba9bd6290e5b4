"""Whether a row of the fault matrix holds: what the emulator knows against what must be."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from real_robot.arms.so101 import SO101Arm
from real_robot.emulators.trace import SCALE
from real_robot.faults.rows import Row
from real_robot.faults.truth import Truth
from real_robot.recording.recorder import read_log
from real_robot.recording.replay import FILTER_EVENTS, ReplayConfig, replay_episode
from real_robot.robots import hand_of
from real_robot.watchdog.stopping import REST
from vla.errors import ReflexError
from vla.safety.filter import ActionFilter
from vla.safety.log import Row as LogRow
from vla.safety.replay import replay

MOVES = 30.0
"""Degrees a second that the base must reach in the last second for the arm to count as following its policy."""
SERVO_VELOCITY = np.radians(270.0) * SCALE
"""[6] what an STS3215 reaches without load, per second. What joints are told is limited to less (the robot's file), and
they overshoot that by up to an eighth where they catch up at full speed: they are springs."""
BEFORE = 1.0
"""Seconds before the fault from which on limits are looked at."""
SETTLES = 0.11
"""Seconds in which the servos, which are springs and lag behind, arrive at a goal that stands still."""


@dataclass(frozen=True)
class Seen:
    """What was seen of one row."""

    truth: Truth
    struck: float
    """When the fault struck: monotonic seconds."""
    ended_itself: bool
    """Whether the deployment had ended before it was told to."""
    run: Path
    """Its run folder."""
    said: str
    """What it wrote on its terminal."""
    watchdog: list[dict[str, Any]] = field(default_factory=list)
    """What its watchdog wrote."""


def judge(row: Row, seen: Seen, arm: SO101Arm) -> dict[str, Any]:
    """What happened, JSON-ready, and under "failures" in words what should not have."""
    failures: list[str] = []
    motion = _motion(row, seen, arm, failures)
    end = "stops" if seen.ended_itself else ("goes_on" if motion["moves_at_the_end"] else "holds")
    if end != row.end:
        failures.append(f"it {end.replace('_', ' ')}; expected: {row.end.replace('_', ' ')}")
    reason = _reason(row, seen)
    if row.because and not reason:
        failures.append(f"no reason was given that reads {row.because!r}")
    recording = _recording(row, seen, arm, failures)
    return {
        "row": row.name,
        "what": row.what,
        "expected": row.end,
        "end": end,
        "reason": reason,
        **motion,
        **recording,
        "failures": failures,
    }


def never_struck(row: Row, error: ReflexError) -> dict[str, Any]:
    """The result of a row whose deployment failed without its fault: nothing was shown, so it does not hold."""
    numbers = ("peak_velocity_share", "peak_jerk_share", "rests_after", "unrecorded")
    described = {"row": row.name, "what": row.what, "expected": row.end, "end": "unknown", "reason": ""}
    return {**described, **dict.fromkeys(numbers), "failures": [str(error)]}


def stop_bound(arm: SO101Arm) -> float:
    """Seconds within which the arm is at rest once it is to hold: its commands by the filter, and it behind them."""
    period = 1.0 / arm.embodiment.control_frequency
    return ActionFilter(arm.limits, period, hand=hand_of(arm)).time_to_rest + SETTLES


def _motion(row: Row, seen: Seen, arm: SO101Arm, failures: list[str]) -> dict[str, Any]:
    """Velocities, jerk and the time to rest, by the physics."""
    truth, limits, since = seen.truth, arm.limits, seen.struck - BEFORE
    shares: dict[str, Any] = {}
    for name, peaks, limit in (
        ("velocity", truth.peak_velocities(since), SERVO_VELOCITY),
        ("jerk", truth.peak_jerks(since), np.array(limits.jerk)),
    ):
        worst = int(np.argmax(peaks / limit))
        shares[f"peak_{name}"] = float(peaks[worst])
        shares[f"peak_{name}_share"] = float(peaks[worst] / limit[worst])
        shares[f"peak_{name}_joint"] = limits.names[worst]
        if peaks[worst] > limit[worst]:
            failures.append(f"{limits.names[worst]}: {name} {peaks[worst]:.4g} is more than {limit[worst]:.4g}")
    shares["fastest_moment_share"] = float((truth.fastest(since) / SERVO_VELOCITY).max())
    last = truth.times >= truth.times[-1] - 1.0
    moves = bool(np.abs(truth.velocities[last, 0]).max() > MOVES)
    rested = truth.moves_until(seen.struck, REST * np.array(limits.velocity)) - seen.struck
    found: dict[str, Any] = {**shares, "moves_at_the_end": moves, "rests_after": None}
    if row.end != "goes_on":
        found |= {"rests_after": rested, "detection_bound": row.detection, "stop_bound": stop_bound(arm)}
        if rested > row.detection + stop_bound(arm):
            failures.append(
                f"at rest {rested:.3f} s after the fault; {row.detection:.3f} s to know it and {stop_bound(arm):.3f} s "
                "to stop are allowed"
            )
    return found


def _reason(row: Row, seen: Seen) -> str:
    """The words that were given for the end, as far as they are those that are expected."""
    if not row.because:
        return ""
    summary = seen.run / "summary.json"
    given = [json.loads(summary.read_text(encoding="utf-8"))["results"]] if summary.is_file() else []
    texts = [" ".join(seen.said.split()), *(str(line.get("cause", "")) for line in seen.watchdog), json.dumps(given)]
    for text in texts:
        if match := re.search(rf"[^;{{}}]{{0,60}}(?:{row.because})[^;{{}}]{{0,60}}", text):
            return match.group().strip()
    return ""


def _recording(row: Row, seen: Seen, arm: SO101Arm, failures: list[str]) -> dict[str, Any]:
    """Whether the recording opens, gives the same bits again, and has every command."""
    found: dict[str, Any] = {"recorded": 0, "unrecorded": None, "replayed": 0}
    try:
        rows = read_log(seen.run / "control.jsonl")
        asked = replay([line for line in rows if line["event"] in FILTER_EVENTS], hand_of(arm))
        if asked.differences:
            failures.append(f"the log does not replay: {asked.differences[0]}")
        found["replayed"] = asked.actions
        if row.dataset:
            replay_episode(ReplayConfig(dataset=str(seen.run / "dataset")))
            dropped = json.loads((seen.run / "summary.json").read_text(encoding="utf-8"))["dropped_steps"]
            if dropped:
                failures.append(f"{dropped} control steps found no room in the recorder")
    except (ReflexError, OSError) as error:
        failures.append(f"the recording does not open: {error}")
        return found
    actions = [line for line in rows if line["event"] == "action"]
    commanded = [_commanded(line) for line in actions]
    due = sum(line["now"] < seen.truth.times[-1] - 0.1 for line in actions)  # later ones may have missed the trace
    found["recorded"] = len(commanded)
    found["unrecorded"] = seen.truth.unrecorded(commanded, arm.calibration.step / 2.0, due)
    if found["unrecorded"] > row.unrecorded:
        failures.append(f"{found['unrecorded']} commands are not in the recording; at most {row.unrecorded} may be")
    return found


def _commanded(line: LogRow) -> list[float]:
    commanded: list[float] = line["control"]["commanded"] if "control" in line else line["commanded"]
    return commanded
