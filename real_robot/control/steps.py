"""What happened in one control step, and how an episode ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from real_robot.control.schedulers import Planned, Source
from real_robot.control.sensors import Seen
from real_robot.control.timing import Tick
from vla.safety.checks import ActionRequest
from vla.safety.decision import Filtered
from vla.safety.log import Row, action_row, write_array


class Ending(StrEnum):
    """Why an episode is over."""

    TIME = "time"
    """It had all its control steps."""
    SUCCESS = "success"
    """The operator, or the simulation, says that the task is done."""
    OPERATOR = "operator"
    """The operator ended it."""
    STOPPED = "stopped"
    """The operator pressed stop, the watchdog tripped, or the filter stopped the arm: no episode follows."""
    FAULT = "fault"
    """The arm, a camera or the policy kept failing: no episode follows."""


@dataclass(frozen=True)
class Step:
    """One control step, as it is recorded."""

    tick: Tick
    seen: Seen
    planned: Planned | None
    """The action that was due; None where there was none."""
    problem: str | None
    """Why the action was not used, or there was none, before the filter saw it: "camera_stale:front"."""
    request: ActionRequest
    """What the filter was asked."""
    filtered: Filtered
    sent: NDArray[np.float64]
    """[J] what the arm says was commanded."""
    sent_time: float
    """Monotonic seconds after it was commanded."""
    source: Source = "policy"
    """Who drives."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Codes of all that changed the action: the problem, then the filter's."""
        if self.problem is None:
            return self.filtered.reasons
        # That there was no array to read is the filter's way to say that there was a problem.
        return (self.problem, *(reason for reason in self.filtered.reasons if reason != NO_ARRAY))

    def log_row(self) -> Row:
        """JSON-ready and exact, for `vla.safety.log.replay`, with what the loop knows under "control"; no pictures."""
        planned = self.planned
        return action_row(self.request, self.filtered) | {
            "control": {
                "step": self.tick.number,
                "due": self.tick.deadline,
                "began": self.tick.began,
                "sent_time": self.sent_time,
                "arm_time": self.seen.reading.time,
                "image_times": dict(self.seen.image_times),
                "velocities": self.seen.reading.velocities.tolist(),
                "raw": None if planned is None else write_array(planned.action),
                "index": None if planned is None else planned.index,
                "source": self.source,
                "problem": self.problem,
                "commanded": self.sent.tolist(),
            }
        }


NO_ARRAY = "shape:[]"


@dataclass(frozen=True)
class EpisodeResult:
    """One episode on the arm."""

    ending: Ending
    detail: str
    """The reason in words; empty where the ending says all."""
    steps: int
    missed: int
    """Control steps that were left out because the one before took too long."""
    decisions: dict[str, int]
    """How often the filter passed, clipped, held and stopped."""
    problems: dict[str, int]
    """Why no action was used, and how often, by code without its detail: "no_action", "camera_stale", ..."""
    rejected: dict[str, int]
    """Chunks that were not used, by reason."""
    inference_errors: int
    arm_failed: bool = False
    """Whether it was the arm that failed, which then may not follow commands to come to rest either."""

    @property
    def success(self) -> bool:
        """Whether the task was done."""
        return self.ending is Ending.SUCCESS

    @property
    def goes_on(self) -> bool:
        """Whether another episode may follow."""
        return self.ending not in (Ending.STOPPED, Ending.FAULT)
