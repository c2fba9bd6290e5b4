"""The fault matrix as data: what strikes, what must come of it, and how soon it can be known at all."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from real_robot.faults.scene import Scene
from real_robot.faults.swing import HORIZON

End = Literal["goes_on", "holds", "stops"]
"""goes_on: the arm still follows the policy at the end. holds: it rests, and the deployment waits for better times.
stops: it rests, and the deployment has ended by itself."""
Policy = Literal["in_process", "served", "proxied"]
"""Where the policy is: in the deployment's process, behind `vla serve`, or behind that and a network that can fail."""

CHUNK = (HORIZON + 1) / 30.0
"""Seconds until the chunk that is there is used up: until then nothing is wrong with what the arm is told."""
CAMERA = 0.2 + 2.0 / 30.0
"""Seconds until the last good picture is too old (`max_camera_age`), which the next control step sees."""
FROZEN = 0.5
"""Seconds of equal pictures after which a camera counts as frozen (`camera_frozen_after`)."""
READING = 1.0 / 30.0
"""Seconds until the next reading."""


@dataclass(frozen=True)
class Row:
    """One fault."""

    name: str
    what: str
    """The fault in words."""
    strike: Callable[[Scene], object]
    """Lets it strike."""
    end: End
    """What must come of it."""
    because: str = ""
    """Regular expression of the reason that must be given; empty where none is needed."""
    detection: float = 0.0
    """Seconds after the fault within which it can be known; the time to rest counts from there."""
    watched: float = 2.5
    """Seconds after the fault for which the arm is watched."""
    policy: Policy = "in_process"
    unrecorded: int = 0
    """Commands that cannot be in the recording."""
    dataset: bool = True
    """Whether the episode must be in a dataset; one whose process is killed is in the log alone."""
    small_disk: bool = False
    """Whether the run folder is on a small disk of its own."""


def faults(**values: Any) -> Callable[[Scene], object]:
    """A strike that sets faults of the emulated arm (`real_robot.emulators.faults.Faults`)."""
    return lambda scene: scene.emulator.set_faults(**values)


def latency(seconds: float) -> Callable[[Scene], object]:
    """A strike by which the server's answers come later."""

    def strike(scene: Scene) -> None:
        scene.proxy.latency = seconds

    return strike


def fall_silent(scene: Scene) -> None:
    """The connection to the server stays open, and nothing goes over it."""
    scene.proxy.silent = True


def missing_and_killed(scene: Scene) -> None:
    """A servo's cable comes off, and before anything can be done about it the deployment is killed."""
    scene.emulator.set_faults(joints=("wrist_flex",), silent=True)
    scene.signal(signal.SIGKILL)


def full_and_killed(scene: Scene) -> None:
    """The disk is full, and then the deployment is killed."""
    scene.fill_disk()
    scene.signal(signal.SIGKILL)


WATCHDOG_ENDED = "process ended without releasing the arm"
CANNOT_BE_CERTAIN = "IT IS NOT CERTAIN THAT THE ARM HAS STOPPED"
"""What the watchdog says where a servo does not answer: the others rest, and nobody can read this one."""
ROWS = (
    Row("none", "nothing", lambda scene: None, "goes_on"),
    # ---- the servo bus
    Row("packets_lost", "a tenth of all status packets is lost", faults(drop=0.1), "goes_on"),
    Row("packets_corrupt", "a tenth of all status packets has a flipped bit", faults(corrupt=0.1), "goes_on"),
    Row("packets_wrong_id", "a tenth of all status packets names another servo", faults(wrong_id=0.1), "goes_on"),
    Row("bus_silent", "no servo answers any more", faults(silent=True), "stops", "no answer"),
    Row("bus_late_10", "every answer of the servos comes 10 ms later", faults(latency=0.01), "goes_on"),
    Row("bus_late_50", "every answer of the servos comes 50 ms later", faults(latency=0.05), "stops", "no answer"),
    # The first late answer says again what the servos were told last, so that only the next one is known to be old.
    Row("bus_late_500", "every answer of the servos comes 500 ms later", faults(latency=0.5), "stops",
        "no answer|another goal than was told", detection=0.5 + READING),
    # ---- servos
    Row("overload", "the gripper's servo reports an overload", faults(joints=("gripper",), error_bits=32), "stops",
        "gripper: overload", detection=READING),
    Row("brown_out", "two servos lose their torque and their memory",
        lambda scene: scene.emulator.brown_out(["shoulder_lift", "elbow_flex"]), "stops",
        "shoulder_lift, elbow_flex lost power", detection=READING),
    Row("servo_jammed", "the base's servo no longer follows its goals", faults(joints=("shoulder_pan",), jammed=True),
        "stops", "tracking:shoulder_pan", detection=0.5),
    Row("servo_missing_killed", "a servo's cable comes off, and the deployment is killed", missing_and_killed, "stops",
        CANNOT_BE_CERTAIN, unrecorded=3, dataset=False),
    Row("encoder_misread", "one position is read a quarter turn wrong",
        faults(joints=("wrist_roll",), spike=1024, packets=1), "goes_on"),
    Row("encoder_wrap", "the wrist's encoder reads half a turn further, over the end of its scale, and stays there",
        faults(joints=("wrist_roll",), spike=2100), "stops", "wrist_roll", detection=READING),
    # ---- cameras
    Row("camera_black", "a camera shows black", faults(black_cameras=("front",)), "holds", "camera_stale",
        detection=CAMERA),
    Row("camera_frozen", "a camera repeats one picture", faults(frozen_cameras=("front",)), "holds", "camera_stale",
        detection=FROZEN + CAMERA, watched=3.0),
    # ---- the policy and its server
    Row("server_killed", "the policy server is killed", lambda scene: scene.kill_server(), "holds", "no_action",
        detection=CHUNK, policy="served"),
    Row("server_half_open", "the connection to the policy server carries nothing any more", fall_silent, "holds",
        "no_action", detection=CHUNK, policy="proxied"),
    *(
        Row(f"latency_{ms}", f"the policy server's answers come {ms} ms later", latency(ms / 1e3), "goes_on",
            policy="proxied", watched=3.5)
        for ms in (50, 100, 200)
    ),
    Row("latency_500", "the policy server's answers come 500 ms later, when their 16 actions are nearly over",
        latency(0.5), "holds", "no_action", detection=CHUNK, policy="proxied", watched=3.5),
    Row("nan_actions", "the policy decides on NaN", lambda scene: scene.poison.touch(), "holds", "not_finite",
        detection=CHUNK),
    # ---- the computer
    Row("clock_forward", "the wall clock jumps an hour ahead", lambda scene: scene.jump_clock(3600.0), "goes_on"),
    Row("clock_backward", "the wall clock jumps an hour back", lambda scene: scene.jump_clock(-3600.0), "goes_on"),
    Row("disk_full", "the disk of the run folder is full", lambda scene: scene.fill_disk(), "stops",
        "No space left on device", detection=2.0 * READING, unrecorded=12, dataset=False, small_disk=True),
    Row("disk_full_killed", "the disk is full, and the deployment is killed", full_and_killed, "stops", WATCHDOG_ENDED,
        unrecorded=12, dataset=False, small_disk=True),
    Row("process_killed", "the deployment is killed (SIGKILL)", lambda scene: scene.signal(signal.SIGKILL), "stops",
        WATCHDOG_ENDED, unrecorded=3, dataset=False),
    Row("process_frozen", "the deployment is frozen (SIGSTOP)", lambda scene: scene.signal(signal.SIGSTOP), "stops",
        "was silent for", unrecorded=3, dataset=False),
)  # fmt: skip
