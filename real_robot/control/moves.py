"""Moves without a policy: hold, go to a pose, come to rest; through the filter and under the watchdog, as the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import Arm, ArmError
from real_robot.control.loop import MAX_ARM_ERRORS, Pulse
from real_robot.control.steps import Ending
from real_robot.control.timing import FixedRate
from vla.safety.approach import plan_approach
from vla.safety.checks import ActionRequest
from vla.safety.decision import Decision
from vla.safety.filter import ActionFilter
from vla.safety.log import Row, action_row
from vla.safety.workspace import HandModel


class Mover:
    """Commands an arm where no policy does. Every method returns the ending that interrupted it, or None."""

    def __init__(
        self,
        arm: Arm,
        action_filter: ActionFilter,
        pulse: Pulse,
        on_row: Callable[[Row], None] = lambda row: None,
        hand: HandModel | None = None,
    ) -> None:
        """`on_row` gets every request and answer of the filter, for the log."""
        self._arm, self._filter, self._pulse, self._on_row, self._hand = arm, action_filter, pulse, on_row, hand
        self._frequency = arm.embodiment.control_frequency

    def go_to(self, pose: NDArray[np.float64], speed: float) -> Ending | None:
        """Go to positions [J] at a share of full speed and come to rest there.

        Raises `ReflexError` for a pose outside the limits, or a way on which the hand would leave its workspace.
        """
        if (ending := self.come_to_rest()) is not None:
            return ending
        limits = self._filter.setup.limits
        path = plan_approach(self._filter.state.position, pose, limits, self._filter.setup.period, speed, self._hand)
        if (ending := self._run("approach", path)) is not None:
            return ending
        return self.come_to_rest()

    def follow(self, actions: NDArray[np.float64]) -> Ending | None:
        """Command actions [T, J], one a control step; what the filter changes is changed."""
        return self._run("replay", actions)

    def come_to_rest(self, most_seconds: float = 5.0) -> Ending | None:
        """Slow down within the limits until the commands stand still, after a stop of the filter too."""
        holds = self._holds(lambda: not self._filter.at_rest, most_seconds)
        return self._run("hold", holds, (Ending.STOPPED,), after_stop=True)

    def hold_while(self, condition: Callable[[], bool], most_seconds: float) -> Ending | None:
        """Hold while the condition is true, and at most so long."""
        return self._run("hold", self._holds(condition, most_seconds))

    @staticmethod
    def _holds(condition: Callable[[], bool], most_seconds: float) -> Iterator[None]:
        until = time.monotonic() + most_seconds
        while condition() and time.monotonic() < until:
            yield None

    def _run(
        self,
        phase: str,
        targets: Iterable[NDArray[np.float64] | None],
        interrupting: tuple[Ending, ...] = (Ending.STOPPED, Ending.OPERATOR),
        after_stop: bool = False,
    ) -> Ending | None:
        rate = FixedRate(self._frequency)
        failures = 0
        for target in targets:
            tick = rate.wait()
            self._pulse.beat(tick.number)
            if (ending := self._pulse.order()) in interrupting:
                return ending
            try:
                measured = self._arm.observe().positions
                now = time.monotonic()
                request = ActionRequest(target, now, now, measured=measured)
                filtered = self._filter.filter(request)
                sent = self._arm.send(filtered.action)
            except ArmError:
                failures += 1
                if failures >= MAX_ARM_ERRORS:
                    return Ending.FAULT
                continue
            failures = 0
            self._on_row(action_row(request, filtered) | {"phase": phase, "commanded": sent.tolist()})
            if filtered.decision is Decision.STOP and not after_stop:
                return Ending.STOPPED
        return Ending.STOPPED if self._filter.stopped else None
