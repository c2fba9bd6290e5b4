"""A Franka (FR3) through franky-control, which speaks libfranka's protocol.

The arm is told where its hand shall be, about 20 times a second. Each command replaces the one before while the arm
moves, and the arm's own limits of velocity, acceleration and jerk smooth what lies between.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import ArmError, ArmReading
from real_robot.arms.franka_gripper import FrankaGripper
from real_robot.arms.franka_hand import WIDTH, HandDeltas, command_of, hand_embodiment, rotation_of, state_of
from real_robot.arms.robot_file import read_robot_file
from sim.embodiments import PANDA_EEF

CONNECTS_WITHIN = 5.0
"""Seconds in which the arm takes a connection; on the emulated one its model alone takes half a second."""
MOST_UNPLANNED = 3
"""Motions in a row that may fail to begin."""
STOPS_WITHIN = 0.6
"""Seconds in which an arm that was told to stop has stopped."""
Made = TypeVar("Made")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrankaSettings:
    """Which Franka it is."""

    port: str
    """Address of its control box, such as 172.16.0.2; of an emulated one 127.0.0.1."""
    robot_file: str = "franka"
    """Path of the file with its limits; `franka` is the one that comes with Reflex."""
    base: list[float] = field(default_factory=lambda: [-0.5, 0.0, 0.0])
    """Where the arm's base stands in the frame that policies and limits use (m); by default the tabletop suite's."""
    dynamics: float = 0.5
    """Share of the arm's own greatest velocity, acceleration and jerk that it may use."""
    response: float = 0.47
    """Share of a policy's change of pose that the hand moves in one control step; see `HandDeltas`."""
    gripper: bool = True
    """Whether there is a Franka hand."""
    gripper_speed: float = 0.1
    """Of its fingers against each other (m/s)."""
    gripper_force: float = 20.0
    """With which it holds (N)."""
    realtime: bool = False
    """Whether to insist on a kernel with real-time scheduling, without which a real arm may stop by itself."""
    recover: bool = False
    """Clear an error of the arm when connecting: somebody has looked at it, and it may move again."""


class FrankaArm:
    """A Franka; see `Arm`.

    Positions are the hand's place (m, 3), its turn away from pointing straight down (rad, 3), and its gripper (-1 open,
    1 closed).
    """

    Settings = FrankaSettings

    def __init__(self, settings: FrankaSettings) -> None:
        """Opens nothing. Raises `ArmError` for a wrong file or setting, and where franky-control is missing."""
        if len(settings.base) != 3 or not np.isfinite(settings.base).all():
            raise ArmError(f"base is {settings.base}; give x, y and z of the arm's base in metres")
        if not 0.0 < settings.dynamics <= 1.0:
            raise ArmError(f"dynamics is {settings.dynamics}; give a share above 0 and up to 1")
        self.settings = settings
        self.limits = read_robot_file(settings.robot_file).limits
        if self.limits.names != PANDA_EEF.action.names:
            raise ArmError(
                f"{settings.robot_file} names {', '.join(self.limits.names)}; a Franka's file names "
                f"{', '.join(PANDA_EEF.action.names)}"
            )
        self.embodiment = hand_embodiment(self.limits)
        self.delta_embodiment = PANDA_EEF
        """What policies that change the hand's pose are made for."""
        self._deltas = HandDeltas(settings.response)
        self._base = np.asarray(settings.base, np.float64)
        self._franky = _import_franky()
        self._robot: Any = None
        self._hand: FrankaGripper | None = None
        self._hand_before: FrankaGripper | None = None
        """Of the connection before: its fingers may still move."""
        self._unplanned = 0
        """Motions in a row that did not begin."""
        self._last: tuple[float, float] | None = None
        """Time and gripper of the last reading."""

    def positions_of(self, changes: NDArray[np.float64], state: NDArray[np.float32]) -> NDArray[np.float64]:
        """Positions [H, 7] that a policy's changes [H, 7] ask for, from the state [8] that it decided on."""
        return self._deltas.positions(changes, state)

    # ---- connecting ------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open the way to the arm and its hand. An arm at rest holds itself.

        Raises `ArmError` for an arm that does not answer, that another program drives, or that is switched off.
        """
        self._open_robot()
        settings = self.settings
        with self._talking("connect"):
            if settings.gripper:
                self._hand = self._in_time(
                    lambda: FrankaGripper(self._franky, settings.port, settings.gripper_speed, settings.gripper_force)
                )
        if settings.recover and self._robot.has_errors:
            self.recover()
        self._last = None
        self.observe()

    def connect_to_stop(self) -> None:
        """Open the way to the arm alone: neither its hand nor an error keeps it from a stop.

        Raises `ArmError` for an arm that does not answer, or that another program drives.
        """
        self._open_robot()
        self._last = None

    def _open_robot(self) -> None:
        self.disconnect()
        if self._hand_before is not None:
            self._hand_before.join()
            self._hand_before = None
        franky, settings = self._franky, self.settings
        enforce = franky.RealtimeConfig.Enforce if settings.realtime else franky.RealtimeConfig.Ignore
        with self._talking("connect"):
            self._robot = self._in_time(
                lambda: franky.Robot(settings.port, relative_dynamics_factor=settings.dynamics, realtime_config=enforce)
            )

    def _in_time(self, connect: Callable[[], Made]) -> Made:
        """What `connect` makes. franky itself waits for ever for an arm that another program drives."""
        made: queue.SimpleQueue[Made | Exception] = queue.SimpleQueue()

        def make() -> None:
            try:
                made.put(connect())
            except Exception as error:  # noqa: BLE001 (raised again by whoever waits)
                made.put(error)

        threading.Thread(target=make, name="connect", daemon=True).start()
        try:
            found = made.get(timeout=CONNECTS_WITHIN)
        except queue.Empty as error:
            raise ArmError(
                f"the Franka at {self.settings.port} took no connection within {CONNECTS_WITHIN:g} s; another program "
                "drives it: end that one first"
            ) from error
        if isinstance(found, Exception):
            raise found
        return found

    def recover(self) -> None:
        """Clear the error that stopped the arm. Only for somebody who has looked at it: it can move afterwards."""
        with self._talking("recover"):
            if not self._open().recover_from_errors():
                raise ArmError(f"the Franka at {self.settings.port} did not recover; see its Desk in a browser")

    # ---- driving ---------------------------------------------------------------------------------------------------

    def observe(self) -> ArmReading:
        """Where its hand is. Raises `ArmError` when the arm does not answer."""
        with self._talking("observe"):
            robot, frame = self._open(), self._franky.Frame.EndEffector
            state = robot.state
            # From the joints: a state's own pose is the commanded one in franky-sim, measured on a real arm.
            matrix = np.asarray(robot.model.pose(frame, state).matrix, np.float64)
            twist = np.asarray(robot.model.zero_jacobian(frame, state)) @ np.ravel(state.dq)
            width = WIDTH if self._hand is None else self._hand.width
        now = time.monotonic()
        place, rotation = matrix[:3, 3] + self._base, matrix[:3, :3]
        positions = command_of(place, rotation, width)
        velocities = np.zeros(7)
        velocities[:6] = twist
        if self._last is not None:
            before, gripper = self._last
            velocities[6] = (positions[6] - gripper) / max(now - before, 1e-3)
        self._last = (now, float(positions[6]))
        return ArmReading(state_of(place, rotation, width), positions, velocities, now)

    def send(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Command where the hand shall be; does not wait. The command replaces the one before.

        Raises `ArmError` for numbers that are not finite (then nothing is sent), and for an arm that stopped itself.
        """
        wanted = np.asarray(positions, np.float64)
        if wanted.shape != (7,) or not np.isfinite(wanted).all():
            raise ArmError(f"positions must be 7 finite numbers, not {wanted.tolist()}; nothing was sent")
        sent: NDArray[np.float64] = np.clip(wanted, self.limits.low, self.limits.high)
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation_of(sent), sent[:3] - self._base
        with self._talking("send"):
            robot = self._open()
            self._look_at_motion(robot)
            if robot.has_errors:
                raise ArmError(self._stopped_itself(str(robot.state.current_errors)))
            robot.move(self._franky.CartesianMotion(self._franky.Affine(matrix)), asynchronous=True)
            if self._hand is not None:
                self._hand.tell(closes=bool(sent[6] > 0.0))
        return sent

    def _look_at_motion(self, robot: Any) -> None:
        """Raise what ended the motion before, but not that it found no way to begin.

        From the last tremble of an arm that comes to rest a plan fails now and then, and the next one does not.
        """
        try:
            robot.poll_motion()
        except RuntimeError as error:
            self._unplanned += 1
            if "planner" not in str(error) or self._unplanned > MOST_UNPLANNED:
                raise
        else:
            self._unplanned = 0

    def hold(self) -> None:
        """Come to rest within the arm's limits and stay, the gripper as it is. An arm that stopped itself is held."""
        with self._talking("hold"):
            robot = self._open()
            if robot.is_in_control:
                robot.move(self._franky.CartesianStopMotion(), asynchronous=True)

    def stop(self, torque_off: bool = False) -> None:
        """Come to rest and stay. Raises `ArmError` when asked to let go, which only the arm's own switches do."""
        if torque_off:
            raise ArmError(
                "a Franka cannot be told to let go: its brakes close when it is switched off; use its emergency stop"
            )
        self.hold()
        with self._talking("stop"):
            if not self._robot.join_motion(STOPS_WITHIN):
                self._robot.stop()

    def disconnect(self) -> None:
        """Stop, and close the way to the arm, which holds itself. It does not raise."""
        if self._robot is None:
            return
        try:
            self.stop()
        except ArmError as error:
            _log.warning("while disconnecting: %s", error)
        if self._hand is not None:
            self._hand.close()
            self._hand_before = self._hand
        self._robot = self._hand = None

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self.disconnect()

    # ---- what can go wrong -----------------------------------------------------------------------------------------

    def _open(self) -> Any:
        if self._robot is None:
            raise ArmError(f"the Franka at {self.settings.port} is not connected; call connect() first")
        return self._robot

    def _stopped_itself(self, why: str) -> str:
        return (
            f"the Franka at {self.settings.port} stopped itself ({why}); look at it and at what it touches, then "
            "connect again with robot_settings.recover=true"
        )

    @contextmanager
    def _talking(self, doing: str) -> Iterator[None]:
        """Whatever franky raises becomes an `ArmError` that says what to do."""
        franky, port = self._franky, self.settings.port
        try:
            yield
        except franky.ControlException as error:
            raise ArmError(self._stopped_itself(str(error))) from error
        except franky.CommandException as error:
            raise ArmError(f"the Franka at {port} refused to {doing} ({error}); see its Desk in a browser") from error
        except franky.RealtimeException as error:
            raise ArmError(
                f"this machine has no real-time kernel ({error}); install one, or set robot_settings.realtime=false"
            ) from error
        except (franky.Exception, RuntimeError) as error:  # the latter is how errors of the network and of plans come
            if "planner" in str(error):
                raise ArmError(self._stopped_itself(f"no way to where it was told to go: {error}")) from error
            raise ArmError(
                f"the Franka at {port} does not answer ({doing}: {error}); check its cable and address, that FCI is "
                "activated in Desk, and that no other program drives it; then connect again"
            ) from error


def _import_franky() -> ModuleType:
    try:
        import franky
    except ImportError as error:
        raise ArmError(
            "robot=franka needs the package franky-control; install Reflex with its extra: "
            f"pip install 'reflex-vla[robots]' ({error})"
        ) from error
    module: ModuleType = franky
    return module
