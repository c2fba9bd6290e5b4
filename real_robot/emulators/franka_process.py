"""The two processes of an emulated Franka: franky-sim with the scene's physics, and the scene's pictures."""

from __future__ import annotations

import contextlib
import importlib.util
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from real_robot.emulators.franka_scene import BASE, MirroredTabletop, ScenePhysics, Standing, add_scene
from real_robot.emulators.pictures import Pictures, PictureServer, with_noise
from sim.contract import EnvironmentRequestError, Split
from sim.tabletop.tasks import get_task
from vla.errors import ReflexError

TICK = 0.001
"""Seconds of simulated time between two messages to the robot's client, as on the real arm."""
MOST_TICKS_AT_ONCE = 20
"""Ticks that are made up for at once where the machine was busy; what is more is left out, and counted."""
MOST_UNANSWERED = 3
"""Ticks that go on without an answer of the client that moves the arm, before time stands still for it."""
CLIENT_LATE = 0.1
"""Seconds that a tick then waits at most."""
SHOW_EVERY = 10
"""Ticks between two looks at the scene by whoever draws it."""
LOOKS_PER_SECOND = 20.0
"""How often the scene is judged where nobody wants pictures."""
MOST_NUMBERS = 64
"""Numbers that a scene has at most."""
GRIPPER_OPEN = 0.08
"""Metres between the fingers when the arm starts, as in the suite."""
STIFFNESS = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 700.0)
"""Of the emulated arm's joints (N m/rad): franky-sim's own, but 700 for the last. With its 2000 and a damping of 200
the joint turns to and fro by 0.09 rad/s for ever: too much for its inertia at 1000 steps a second."""
DAMPING = tuple(0.1 * stiffness for stiffness in STIFFNESS)
"""N m s/rad, in franky-sim's proportion."""


@dataclass(frozen=True)
class EmulatorSettings:
    """What an emulated Franka is like."""

    task_id: int = 0
    """Task of the suite tabletop whose scene the arm stands in."""
    split: Split = "eval"
    """Which initial states."""
    init_state: int = 0
    """Number of the initial state."""
    image_size: int = 64
    """Side (px) of the pictures."""
    frames_per_second: float = 20.0
    """Of both cameras; 0 draws nothing."""
    address: str | None = None
    """Loopback address to serve at; None for the first that is free from 127.0.0.1 on."""

    @property
    def standing(self) -> Standing:
        """The scene."""
        return Standing(self.task_id, self.split, self.init_state)


def check_installed() -> None:
    """Raise `ReflexError` unless franky-sim is there."""
    if importlib.util.find_spec("franky_sim") is None:
        raise ReflexError(
            "robot=franka is emulated by the package franky-sim, which is not installed; install Reflex with its "
            "extra: pip install 'reflex-vla[emulators]'"
        )


class SharedScene:
    """Where everything is, written by one process and read by another without either waiting."""

    def __init__(self, memory: Any) -> None:
        """`memory` is a `multiprocessing.RawArray("d", SharedScene.SIZE)`."""
        self._all: NDArray[np.float64] = np.frombuffer(memory, np.float64)

    SIZE = MOST_NUMBERS + 5
    """A counter that is odd meanwhile, how many numbers follow, three counts of time, and the numbers."""

    def write(self, numbers: NDArray[np.float64], times: tuple[float, float, float]) -> None:
        """The newest numbers; `times` are simulated s, wall s, and how often the scene was put in place."""
        self._all[0] += 1.0
        self._all[1] = numbers.size
        self._all[2:5] = times
        self._all[5 : 5 + numbers.size] = numbers
        self._all[0] += 1.0

    def read(self) -> tuple[NDArray[np.float64], tuple[float, float, float]]:
        """The newest numbers and times, whole."""
        while True:
            before = self._all[0]
            copy = self._all.copy()
            if before % 2.0 == 0.0 and self._all[0] == before:
                return copy[5 : 5 + int(copy[1])], (float(copy[2]), float(copy[3]), float(copy[4]))
            time.sleep(0.0002)


class Physics:
    """franky-sim with one arm in a scene, stepped as time passes."""

    def __init__(self, settings: EmulatorSettings, shared: SharedScene) -> None:
        """Raises `EnvironmentRequestError` for a scene that does not exist, `ReflexError` without a free address."""
        from franky_sim import SimulationServer
        from franky_sim.mujoco_simulator import MujocoSimulator

        self.standing, self._shared = settings.standing, shared
        scene = get_task(settings.task_id).scene
        self._simulator = MujocoSimulator()
        self._simulator.init()
        robot = self._simulator.add_robot(
            initial_q=tuple(self.standing.joints),
            initial_hand_width=GRIPPER_OPEN,
            kp=STIFFNESS,
            kv=DAMPING,
            position=BASE,
        )
        add_scene(self._simulator.worldbody, scene)
        given = {} if settings.address is None else {"hostname_candidates": [settings.address]}
        self._server = SimulationServer(self._simulator, **given)
        try:
            self._server.init()
        except OSError as error:
            raise ReflexError(f"the emulated Franka finds no free address ({error})") from error
        self.address = str(robot.hostname)
        _answer_superseded(self._server.robot_servers[0].gripper_server)
        self._scene = ScenePhysics(self._simulator.model, self._simulator.data, scene)
        self._scene.place(self.standing.layout)
        self.placed, self.ticks, self.left_out = 1, 0, 0
        self._unanswered = 0

    def run(self, orders: Connection, running: threading.Event) -> None:
        """Step until `running` is cleared; carries out the orders (initial states) that come meanwhile."""
        began = time.monotonic()
        due = began
        while running.is_set():
            late = time.monotonic() - due
            if late < 0.0:
                time.sleep(-late)
            elif late > MOST_TICKS_AT_ONCE * TICK:
                self.left_out += int(late / TICK)
                due += int(late / TICK) * TICK
            due += TICK
            self._server.run_once(realtime=False)
            self._wait_for_client()
            self.ticks += 1
            if self.ticks % SHOW_EVERY == 0:
                if orders.poll():
                    self._order(orders)
                self._shared.write(
                    self._scene.numbers(), (self.ticks * TICK, time.monotonic() - began, float(self.placed))
                )
        self._server.cleanup()

    def _wait_for_client(self) -> None:
        """Let time stand still while whoever moves the arm has not answered for some ticks.

        A client of a real arm has a core of its own and is never late. On a busy machine it is, by many ticks, and what
        it then commands no longer fits the motion that it continues: the arm would swing up.
        """
        server = self._server.robot_servers[0]
        if not server.current_motion_id or server._FrankaRobotServer__has_new_command:
            self._unanswered = 0
            return
        self._unanswered += 1
        if self._unanswered >= MOST_UNANSWERED:
            select.select([server._FrankaServer__udp_socket], [], [], CLIENT_LATE)

    def _order(self, orders: Connection) -> None:
        self.standing = orders.recv()
        self._scene.place(self.standing.layout)
        self.placed += 1


def _answer_superseded(gripper: Any) -> None:
    """Have the hand answer a command that another one ends, as a real hand does: franky-sim 1.0.4 never answers it,
    and its client waits for ever.
    """
    from franky_sim.franka_gripper_protocol import GripperCommandStatus
    from franky_sim.franka_server import BaseCommand

    def after_answering(method: Callable[..., None]) -> Callable[..., None]:
        def answered(*arguments: Any, **named: Any) -> None:
            if gripper._pending_command_id is not None and gripper._pending_tcp_socket is not None:
                BaseCommand.send_response(
                    gripper._pending_tcp_socket,
                    gripper._pending_command_type,
                    gripper._pending_command_id,
                    GripperCommandStatus.kAborted,
                    command_type_struct="H",
                    status_type_struct="H",
                )
                gripper._pending_command_id = None
            method(*arguments, **named)

        return answered

    for name in ("start_move", "start_grasp", "start_homing", "stop"):
        setattr(gripper, name, after_answering(getattr(gripper, name)))


def serve_physics(settings: EmulatorSettings, memory: Any, orders: Connection, connection: Connection) -> None:
    """The body of the process that clients of the arm talk to; ends when `connection` is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started it, and ends it by the connection
    try:
        physics = Physics(settings, SharedScene(memory))
    except (EnvironmentRequestError, ReflexError) as error:
        connection.send({"error": str(error)})
        return
    running = threading.Event()
    running.set()
    thread = threading.Thread(target=physics.run, args=(orders, running), name="franky-sim", daemon=True)
    thread.start()
    connection.send({"address": physics.address})
    _wait_for_end(connection)
    running.clear()
    thread.join(5.0)


class Show:
    """Draws and judges the mirrored scene over and over, and answers what is asked over HTTP."""

    def __init__(self, settings: EmulatorSettings, shared: SharedScene, orders: Connection) -> None:
        self._settings, self._shared, self._orders = settings, shared, orders
        self.standing = settings.standing
        self._lock = threading.Lock()
        self.scene = MirroredTabletop(self.standing, settings.image_size)
        self.pictures = Pictures(self.scene.embodiment.camera_names)
        self.server = PictureServer(self.pictures, self.answer)
        self._placed = 1.0
        self._noise = np.random.default_rng(0)
        self._times = (0.0, 0.0, 0.0)
        self.running = True

    def run(self) -> None:
        """Until `running` is False."""
        draws = self._settings.frames_per_second > 0.0
        period = 1.0 / (self._settings.frames_per_second if draws else LOOKS_PER_SECOND)
        due = time.monotonic()
        while self.running:
            with self._lock:
                numbers, self._times = self._shared.read()
                if numbers.size and self._times[2] == self._placed:
                    self.scene.show(numbers)
                images = self.scene.render_observation()["images"] if draws else {}
            self.pictures.show({name: with_noise(image, self._noise) for name, image in images.items()})
            due = max(due + period, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    def answer(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out a command. Raises `ValueError` for one that cannot be carried out."""
        if name not in ("status", "reset"):
            raise ValueError(f"there is no command {name!r}; it is one of status, reset")
        with self._lock:
            if name == "reset":
                self._reset(values)
            numbers, self._times = self._shared.read()
            if numbers.size and self._times[2] == self._placed:
                self.scene.show(numbers)
            simulated, wall, _ = self._times
            return self.scene.status() | {
                "split": self.standing.split,
                "init_state": self.standing.init_state,
                "simulated_seconds": simulated,
                "wall_seconds": wall,
                "time": time.monotonic(),
            }

    def _reset(self, values: Mapping[str, Any]) -> None:
        standing = replace(
            self.standing,
            split=values.get("split", self.standing.split),
            init_state=int(values.get("init_state", self.standing.init_state)),
        )
        try:
            self.scene.put(standing)
        except EnvironmentRequestError as error:
            raise ValueError(str(error)) from error
        self.standing = standing
        self._orders.send(standing)
        self._placed += 1.0
        until = time.monotonic() + 5.0
        while self._shared.read()[1][2] != self._placed and time.monotonic() < until:
            time.sleep(0.005)


def serve_pictures(settings: EmulatorSettings, memory: Any, orders: Connection, connection: Connection) -> None:
    """The body of the process that draws; ends when `connection` is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        show = Show(settings, SharedScene(memory), orders)
    except EnvironmentRequestError as error:
        connection.send({"error": str(error)})
        return
    thread = threading.Thread(target=show.run, name="pictures", daemon=True)
    thread.start()
    cameras = show.pictures.cameras if settings.frames_per_second else ()
    connection.send({"url": show.server.url, "cameras": {name: show.server.camera_url(name) for name in cameras}})
    _wait_for_end(connection)
    show.running = False
    thread.join(5.0)
    show.server.close()


def _wait_for_end(connection: Connection) -> None:
    with contextlib.suppress(EOFError, ConnectionResetError):  # nobody holds its other end any more
        connection.recv()
