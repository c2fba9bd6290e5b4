"""A Franka hand that is told to open or close without whoever tells it waiting for its fingers."""

from __future__ import annotations

import logging
import threading
from types import ModuleType
from typing import Any

from real_robot.arms.franka_hand import WIDTH

ENDS_WITHIN = 3.0
"""Seconds in which the fingers have come to an end."""
_log = logging.getLogger(__name__)


class FrankaGripper:
    """Carries out the newest wish in a thread of its own: the hand's commands last until its fingers rest.

    A wish that changes meanwhile stops the fingers first. (franky's asynchronous commands wait for one another.)
    """

    def __init__(self, franky: ModuleType, address: str, speed: float, force: float) -> None:
        """`speed` is m/s, `force` N. Raises what franky raises when the hand does not answer."""
        self._franky = franky
        self._hand: Any = franky.Gripper(address)
        self._speed, self._force = speed, force
        self._wish: bool | None = None
        self._done: bool | None = None
        self._moving = False
        self._changed = threading.Condition()
        self._ended = False
        self._error: Exception | None = None
        self._stopper: threading.Thread | None = None
        self._thread = threading.Thread(target=self._serve, name="gripper", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._obey()
        finally:
            self._hand = None  # which closes its connection

    @property
    def width(self) -> float:
        """Metres between the fingers."""
        return float(self._hand.state.width)

    def tell(self, closes: bool) -> None:
        """Close or open. Does not wait; raises what went wrong with what it was told before."""
        with self._changed:
            if self._error is not None:
                error, self._error, self._wish = self._error, None, None
                raise error
            if closes == self._wish:
                return
            self._wish = closes
            if self._moving and self._stopper is None:
                self._stopper = threading.Thread(target=self._stop, name="gripper-stop", daemon=True)
                self._stopper.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Have the thread end when the fingers have come to an end. Does not wait for that; see `join`."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until a closed hand has let go of its connection: it takes one at a time."""
        self._thread.join(ENDS_WITHIN)

    def _obey(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._wish not in (None, self._done))
                if self._ended:
                    return
                wish, stopper = self._wish, self._stopper
                self._stopper, self._moving = None, stopper is None
            if stopper is not None:
                stopper.join()  # a stop that is late would stop what comes next
                continue
            try:
                self._move(bool(wish))
                self._done = wish
            except self._franky.Exception as error:
                self._done = None
                self._failed(error)
            finally:
                self._moving = False

    def _failed(self, error: Exception) -> None:
        with self._changed:
            if self._stopper is None:  # otherwise it is what was stopped
                self._error = error
                self._wish = None

    def _move(self, closes: bool) -> None:
        if closes:
            # Whatever is between the fingers counts as grasped, also nothing.
            self._hand.grasp(0.0, self._speed, self._force, 0.01, WIDTH)
        else:
            self._hand.open(self._speed)

    def _stop(self) -> None:
        try:
            self._hand.stop()
        except self._franky.Exception as error:
            _log.warning("the gripper could not be stopped before it was told otherwise: %s", error)
