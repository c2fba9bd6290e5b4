"""The process of an emulated SO-101: physics and servo bus in one loop in real time, cameras in a thread beside it."""

from __future__ import annotations

import heapq
import logging
import os
import queue
import random
import select
import signal
import sys
import threading
import time
import tty
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from real_robot.arms import registers
from real_robot.emulators.faults import Faults
from real_robot.emulators.pictures import Pictures, PictureServer, with_noise
from real_robot.emulators.servo_bus import Instruction, Packet, PacketParser, ServoBus, ServoMemory
from real_robot.emulators.so101_physics import SO101Physics
from real_robot.emulators.trace import Trace
from real_robot.processes import EMULATOR, go_first
from sim.contract import EnvironmentRequestError, Image, Split
from sim.core.rendering import PrimitiveRenderer
from sim.so101.embodiment import JOINTS
from sim.so101.scene import TIMESTEP

MOST_TICKS_AT_ONCE = 24
"""Physics steps (50 ms) made up for at once; what is more is left out, and counted."""
SILENCE = 0.05
"""Seconds after which a packet that was begun is given up."""
_log = logging.getLogger(__name__)
BITS_PER_BYTE = 10
"""With start and stop bit."""


@dataclass(frozen=True)
class EmulatorSettings:
    """What an emulated SO-101 is like."""

    task_id: int = 0
    """Task of the suite so101 whose scene the arm stands in."""
    split: Split = "eval"
    """Which initial states."""
    init_state: int = 0
    """Number of the initial state."""
    image_size: int = 64
    """Side (px) of the pictures."""
    frames_per_second: float = 30.0
    """Of both cameras; 0 draws nothing."""
    baud_rate: int = 1_000_000
    """Of the wire that answers are delayed by."""
    held: bool = True
    """Whether the servos carry the arm from the start."""
    seed: int = 0
    """Of the faults that strike at random."""
    trace_seconds: float = 0.0
    """How much of what the joints truly did is kept, for `SO101Emulator.trace`; 0 keeps nothing."""


class FaultInjector:
    """Lets the faults of the wire strike answers."""

    def __init__(self, seed: int) -> None:
        self.faults = Faults()
        self._left: int | None = None
        self._random = random.Random(seed)

    def set(self, faults: Faults) -> None:
        """From now on."""
        self.faults, self._left = faults, faults.packets

    def affects(self, joint: str) -> bool:
        """Whether the faults are this joint's."""
        return not self.faults.joints or joint in self.faults.joints

    def strike(self, joint: str, request: Packet, answer: Packet) -> bytes | None:
        """The answer as it goes over the wire; None when it is lost."""
        faults = self.faults
        if not self.affects(joint):
            return answer.to_bytes()
        if faults.silent:
            return None
        if self._left == 0:
            return answer.to_bytes()
        struck, data = False, answer
        if faults.spike:
            data = _spiked(request, answer, faults.spike)
            struck = data is not answer
        if self._random.random() < faults.wrong_id:
            data, struck = Packet(data.id % 253 + 1, data.code, data.data), True
        raw = bytearray(data.to_bytes())
        if self._random.random() < faults.corrupt:
            # Neither the header nor the length: a damaged one of those is a lost packet.
            raw[self._random.choice([*range(4, len(raw))])] ^= 1 << self._random.randrange(8)
            struck = True
        lost = self._random.random() < faults.drop
        if (struck or lost) and self._left is not None:
            self._left -= 1
        return None if lost else bytes(raw)


def _spiked(request: Packet, answer: Packet, steps: int) -> Packet:
    if request.code not in (Instruction.READ, Instruction.SYNC_READ):
        return answer
    register = registers.PRESENT_POSITION
    start = register.address - request.data[0]
    if not 0 <= start <= len(answer.data) - register.size:
        return answer
    wrong = (register.decode(answer.data[start:]) + steps) % registers.RESOLUTION
    data = answer.data[:start] + bytes(register.encode(wrong)) + answer.data[start + register.size :]
    return Packet(answer.id, answer.code, data)


class EmulatorLoop:
    """The loop. Everything in it happens in one thread; other threads leave requests in `requests`."""

    def __init__(self, settings: EmulatorSettings) -> None:
        self.settings = settings
        self.physics = SO101Physics(
            settings.task_id, settings.split, settings.init_state, settings.image_size, settings.held
        )
        self.bus, self.parser = ServoBus(self.physics.servos), PacketParser()
        self.injector = FaultInjector(settings.seed)
        self.trace = Trace(round(settings.trace_seconds / TIMESTEP))
        self.requests: queue.SimpleQueue[tuple[str, Mapping[str, Any], queue.SimpleQueue[Any]]] = queue.SimpleQueue()
        self.scene = self.physics.environment.data.qpos.copy()
        self.running = True
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.port = os.ttyname(self._slave)
        self._answers: list[tuple[float, int, bytes]] = []
        self._counts = {"instructions": 0, "answers": 0, "late_ticks": 0, "left_out_ticks": 0}
        self._worst_lateness = 0.0
        self._last_byte = time.monotonic()

    def run(self) -> None:
        """Run until `running` is False."""
        next_tick = time.monotonic() + TIMESTEP
        ticks = 0
        while self.running:
            due = min(next_tick, self._answers[0][0]) if self._answers else next_tick
            ready, _, _ = select.select([self._master], [], [], max(0.0, due - time.monotonic()))
            if ready:
                self._hear()
            self._speak()
            now = time.monotonic()
            late = now - next_tick
            if late < 0.0:
                continue
            self._worst_lateness = max(self._worst_lateness, late)
            self._counts["late_ticks"] += late > TIMESTEP
            count = int(late / TIMESTEP) + 1
            if count > MOST_TICKS_AT_ONCE:
                self._counts["left_out_ticks"] += count - MOST_TICKS_AT_ONCE
            for index in range(min(count, MOST_TICKS_AT_ONCE)):
                self.physics.step()
                self.physics.trace_into(self.trace, next_tick + index * TIMESTEP)
            next_tick += count * TIMESTEP
            ticks += 1
            if ticks % 8 == 0:
                self.scene = self.physics.environment.data.qpos.copy()
            self._serve_requests()
        os.close(self._master)
        os.close(self._slave)

    # ---- the wire --------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        try:
            data = os.read(self._master, 4096)
        except (BlockingIOError, OSError):
            return
        now = time.monotonic()
        if now - self._last_byte > SILENCE:
            self.parser.clear()
        self._last_byte = now
        for packet in self.parser.feed(data):
            self._execute(packet, now)

    def _execute(self, packet: Packet, now: float) -> None:
        self._counts["instructions"] += 1
        self.physics.measure()
        answers = self.bus.execute(packet)
        if packet.code not in (Instruction.READ, Instruction.SYNC_READ, Instruction.PING):
            self.physics.apply()
        if packet.code == Instruction.SYNC_WRITE and packet.data[:1] == bytes([registers.GOAL_POSITION.address]):
            self.trace.add_goals(now, [servo[registers.GOAL_POSITION] for servo in self.physics.servos])
        byte = BITS_PER_BYTE / self.settings.baud_rate
        when = now + byte * len(packet.to_bytes()) + self.injector.faults.latency
        for servo, answer in answers:
            raw = self.injector.strike(self._joint(servo), packet, answer)
            if raw is None:
                continue
            when += 2e-6 * servo[registers.RETURN_DELAY] + byte * len(raw)
            self._counts["answers"] += 1
            heapq.heappush(self._answers, (when, self._counts["answers"], raw))

    def _joint(self, servo: ServoMemory) -> str:
        return JOINTS[next(index for index, own in enumerate(self.physics.servos) if own is servo)]

    def _speak(self) -> None:
        now = time.monotonic()
        while self._answers and self._answers[0][0] <= now:
            raw = heapq.heappop(self._answers)[2]
            try:
                os.write(self._master, raw)
            except BlockingIOError:
                continue  # nobody has read for a long time; a wire does not wait either

    # ---- requests of other threads ---------------------------------------------------------------------------------

    def ask(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out a command in the loop's thread. Raises `ValueError` for one that cannot be carried out."""
        reply: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.requests.put((name, values, reply))
        answer = reply.get(timeout=10.0)
        if isinstance(answer, Exception):
            raise ValueError(str(answer))
        found: dict[str, Any] = answer
        return found

    def _serve_requests(self) -> None:
        while not self.requests.empty():
            name, values, reply = self.requests.get()
            try:
                reply.put(self._command(name, values))
            except (ValueError, KeyError, EnvironmentRequestError) as error:
                reply.put(error)

    def _command(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        physics = self.physics
        if name == "reset":
            physics.reset(values.get("split", physics.split), int(values.get("init_state", physics.init_state)))
            self.scene = physics.environment.data.qpos.copy()
            self.trace.clear()
        elif name == "trace":
            self.trace.save(Path(values["path"]))
        elif name == "faults":
            self._set_faults(Faults.from_dict(values))
        elif name == "brown_out":
            physics.brown_out(values.get("joints", ()))
        elif name == "guide":
            physics.guide(values.get("positions"))
        elif name != "status":
            raise ValueError(
                f"there is no command {name!r}; it is one of status, trace, reset, faults, brown_out, guide"
            )
        counts = self._counts | {"rejected_bytes": self.parser.rejected, "worst_lateness": self._worst_lateness}
        return physics.status() | {"time": time.monotonic(), "bus": counts, "faults": self.injector.faults.to_dict()}

    def _set_faults(self, faults: Faults) -> None:
        if unknown := set(faults.joints) - set(JOINTS):
            raise ValueError(f"faults: there is no joint {min(unknown)!r}; they are {', '.join(JOINTS)}")
        self.injector.set(faults)
        struck = [joint for joint in JOINTS if self.injector.affects(joint)]
        self.physics.jam(struck if faults.jammed else [])
        for joint, servo in zip(JOINTS, self.physics.servos, strict=True):
            servo.error = faults.error_bits if joint in struck else 0


def _draw(loop: EmulatorLoop, pictures: Pictures) -> None:
    """Draw the newest scene at the cameras' rate, in a thread and with a copy of the scene of its own."""
    environment = loop.physics.environment
    model, names = environment.model, environment.embodiment.camera_names
    data = mujoco.MjData(model)
    renderer = PrimitiveRenderer(model, loop.settings.image_size)
    period = 1.0 / loop.settings.frames_per_second
    due = time.monotonic()
    last: dict[str, Image] = {}
    noise = np.random.default_rng(loop.settings.seed)
    while loop.running:
        data.qpos[:] = loop.scene
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        images = dict(zip(names, renderer.render(data, environment.cameras), strict=True))
        faults = loop.injector.faults
        for name in names:
            images[name] = with_noise(images[name], noise)
            if name in faults.frozen_cameras:
                images[name] = last.get(name, images[name])
            last[name] = images[name]
        black = {
            name: np.zeros_like(image) if name in faults.black_cameras else image for name, image in images.items()
        }
        pictures.show(black)
        due = max(due + period, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def serve(settings: EmulatorSettings, connection: Connection) -> None:
    """Run an emulator; the body of its process. Says where it is over `connection`, and ends when that is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started it, and ends it by the connection
    go_first(EMULATOR)
    sys.setswitchinterval(5e-4)  # a thread that draws must not keep the loop waiting for longer
    try:
        loop = EmulatorLoop(settings)
    except EnvironmentRequestError as error:
        connection.send({"error": str(error)})
        return
    pictures = Pictures(loop.physics.environment.embodiment.camera_names)
    server = PictureServer(pictures, loop.ask)
    threads = [threading.Thread(target=loop.run, name="servos")]
    if settings.frames_per_second:
        threads.append(threading.Thread(target=_draw, args=(loop, pictures), name="cameras", daemon=True))
    for thread in threads:
        thread.start()
    connection.send(
        {
            "port": loop.port,
            "url": server.url,
            "cameras": {name: server.camera_url(name) for name in pictures.cameras},
        }
    )
    try:
        connection.recv()
    except EOFError:
        pass  # nobody holds its other end any more
    finally:
        loop.running = False
        for thread in threads:
            thread.join(5.0)
        server.close()
