"""Scenes of the embedded suite: what stands on the table, and its MJCF.

A scene holds movable objects (cubes, cylinders), plates, at most one drawer and one button. Everything is a primitive
shape, so a scene compiles in milliseconds and renders fast on software GL.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import mujoco
import numpy as np

from sim.tabletop.arm import ARM_ACTUATORS, arm_xml

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "blue": (0.10, 0.25, 0.85),
    "green": (0.10, 0.65, 0.15),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.55, 0.15, 0.70),
    "orange": (0.98, 0.50, 0.05),
    "white": (0.95, 0.95, 0.95),
    "black": (0.08, 0.08, 0.08),
    "pink": (0.98, 0.55, 0.75),
    "cyan": (0.10, 0.80, 0.85),
}
HALF_SIZE = 0.021
"""Half the side of a cube, the radius and half height of a cylinder (m)."""
PLATE_RADIUS = 0.06
PLATE_HALF_HEIGHT = 0.004
DRAWER_TRAVEL = 0.14
CABINET_Y = 0.34
DRAWER_OPEN = 0.09
"""Slide (m) from which a drawer counts as open."""
DRAWER_CLOSED = 0.02
BUTTON_TRAVEL = 0.012
BUTTON_PRESSED = 0.007
BUTTON_HEIGHT = 0.045
LIT_BUTTON = (0.2, 1.0, 0.4, 1.0)
"""Colour of a pressed button: a policy without memory must see which stage it is in."""
DRAWER_HANDLE = np.array([0.0, -0.14, 0.035])
"""The handle's centre in the frame of the drawer (m); the drawer opens along -y, into the middle of the table."""


@dataclass(frozen=True)
class MovableObject:
    """A cube or cylinder the gripper can hold."""

    colour: str
    shape: str
    """ "cube" or "cylinder"."""

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Plate:
    """A flat disc that does not move."""

    colour: str

    @property
    def name(self) -> str:
        return f"{self.colour} plate"


@dataclass(frozen=True)
class Appearance:
    """What the cameras and lights look like. The suite uses the defaults; pretraining draws others."""

    camera_position: tuple[float, float, float] = (0.72, 0.0, 0.62)
    camera_target: tuple[float, float, float] = (-0.05, 0.05, 0.05)
    camera_fovy: float = 34.0
    wrist_offset: tuple[float, float, float] = (0.065, 0.0, 0.02)
    wrist_tilt: float = 0.28
    """Rotation (rad) of the wrist camera towards the fingertips."""
    table_colour: tuple[float, float, float] = (0.62, 0.52, 0.42)
    light: float = 0.75
    light_position: tuple[float, float, float] = (0.4, 0.3, 1.5)


@dataclass(frozen=True)
class Scene:
    """What stands on the table."""

    objects: tuple[MovableObject, ...] = ()
    plates: tuple[Plate, ...] = ()
    drawer: str | None = None
    """Colour of the drawer, if there is one."""
    button: str | None = None
    """Colour of the button, if there is one."""
    appearance: Appearance = field(default_factory=Appearance)


def _rgba(colour: str) -> str:
    return " ".join(f"{channel:.3f}" for channel in COLOURS[colour]) + " 1"


def _look_at(position: tuple[float, float, float], target: tuple[float, float, float]) -> str:
    backward = np.asarray(position) - np.asarray(target)
    backward = backward / np.linalg.norm(backward)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right = right / np.linalg.norm(right)
    up = np.cross(backward, right)
    return " ".join(f"{value:.6f}" for value in (*right, *up))


def _object_xml(index: int, item: MovableObject) -> str:
    size = f"{HALF_SIZE} {HALF_SIZE} {HALF_SIZE}" if item.shape == "cube" else f"{HALF_SIZE} {HALF_SIZE}"
    kind = "box" if item.shape == "cube" else "cylinder"
    return f"""
<body name="object{index}" pos="0 0 {HALF_SIZE}">
  <joint name="object{index}" type="free" damping="0.001"/>
  <geom name="object{index}" type="{kind}" size="{size}" mass="0.06" rgba="{_rgba(item.colour)}" friction="1 0.02 0.001"
   condim="4" contype="1" conaffinity="1"/>
</body>"""


def _plate_xml(index: int, plate: Plate) -> str:
    return f"""
<body name="plate{index}" pos="0 0 {PLATE_HALF_HEIGHT}">
  <geom type="cylinder" size="{PLATE_RADIUS} {PLATE_HALF_HEIGHT}" rgba="{_rgba(plate.colour)}"
   contype="1" conaffinity="2"/>
</body>"""


def _drawer_xml(colour: str) -> str:
    wall = f'type="box" rgba="{_rgba(colour)}" contype="1" conaffinity="2"'
    case = 'type="box" rgba="0.45 0.38 0.32 1" contype="1" conaffinity="2"'
    return f"""
<body name="cabinet" pos="0 {CABINET_Y} 0">
  <geom {case} pos="-0.078 0.01 0.032" size="0.008 0.09 0.032"/>
  <geom {case} pos="0.078 0.01 0.032" size="0.008 0.09 0.032"/>
  <geom {case} pos="0 0.01 0.068" size="0.086 0.09 0.004"/>
  <body name="drawer" pos="0 0 0">
    <inertial pos="0 0 0.02" mass="0.4" diaginertia="0.002 0.002 0.002"/>
    <joint name="drawer" type="slide" axis="0 -1 0" range="0 {DRAWER_TRAVEL}" damping="3" frictionloss="0.3"
     armature="0.05"/>
    <geom {wall} pos="0 0.01 0.006" size="0.066 0.086 0.004"/>
    <geom {wall} pos="-0.062 0.01 0.03" size="0.004 0.086 0.02"/>
    <geom {wall} pos="0.062 0.01 0.03" size="0.004 0.086 0.02"/>
    <geom {wall} pos="0 -0.08 0.03" size="0.066 0.005 0.028"/>
    <geom type="box" pos="{DRAWER_HANDLE[0]} {DRAWER_HANDLE[1] + 0.028} {DRAWER_HANDLE[2] - 0.02}"
     size="0.006 0.028 0.004" rgba="0.15 0.15 0.15 1" contype="0" conaffinity="0"/>
    <geom type="box" pos="{DRAWER_HANDLE[0]} {DRAWER_HANDLE[1]} {DRAWER_HANDLE[2]}" size="0.03 0.008 0.022"
     rgba="0.9 0.9 0.9 1" contype="1" conaffinity="2" friction="1.5 0.02 0.001"/>
  </body>
</body>"""


def _button_xml(colour: str) -> str:
    return f"""
<body name="button_base" pos="0 0 0">
  <geom type="cylinder" pos="0 0 0.012" size="0.038 0.012" rgba="0.3 0.3 0.32 1" contype="1" conaffinity="2"/>
  <body name="button" pos="0 0 {BUTTON_HEIGHT - 0.014}">
    <inertial pos="0 0 0" mass="0.05" diaginertia="1e-5 1e-5 1e-5"/>
    <joint name="button" type="slide" axis="0 0 -1" range="0 {BUTTON_TRAVEL}" stiffness="150"
     springref="-0.002" damping="2" armature="0.02"/>
    <geom name="button_cap" type="cylinder" size="0.026 0.014" rgba="{_rgba(colour)}" contype="1" conaffinity="2"/>
  </body>
</body>"""


def scene_xml(scene: Scene) -> str:
    """The scene's complete MJCF."""
    look = scene.appearance
    bodies = "".join(_object_xml(i, item) for i, item in enumerate(scene.objects))
    bodies += "".join(_plate_xml(i, plate) for i, plate in enumerate(scene.plates))
    bodies += _drawer_xml(scene.drawer) if scene.drawer else ""
    bodies += _button_xml(scene.button) if scene.button else ""
    # The wrist camera looks along the fingers (+z of the hand); MuJoCo cameras look along their own -z. The frame is
    # turned so that "up" in the picture is away from the robot's base.
    half = (np.pi - look.wrist_tilt) / 2.0
    tilt = np.array([np.cos(half), 0.0, np.sin(half), 0.0])
    turn = np.array([np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)])
    wrist = np.empty(4)
    mujoco.mju_mulQuat(wrist, tilt, turn)
    wrist_quaternion = " ".join(f"{value:.6f}" for value in wrist)
    arm = arm_xml("-0.5 0 0", " ".join(map(str, look.wrist_offset)), wrist_quaternion, 75.0)
    table = " ".join(f"{channel:.3f}" for channel in look.table_colour)
    camera = " ".join(map(str, look.camera_position))
    return f"""
<mujoco model="tabletop">
  <compiler angle="radian"/>
  <option timestep="0.005" integrator="implicitfast" cone="pyramidal" iterations="20" ls_iterations="10"
   impratio="2"><flag autoreset="disable"/></option>
  <size memory="2M"/>
  <visual>
    <quality shadowsize="0" offsamples="0" numslices="10" numstacks="6" numquads="1"/>
    <global offwidth="512" offheight="512"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.3 0.3 0.3" specular="0 0 0"/>
    <map znear="0.02" zfar="10"/>
  </visual>
  <worldbody>
    <light pos="{" ".join(map(str, look.light_position))}" dir="-0.2 -0.15 -1"
     diffuse="{look.light} {look.light} {look.light}"
     specular="0 0 0" castshadow="false"/>
    <camera name="agent" pos="{camera}" xyaxes="{_look_at(look.camera_position, look.camera_target)}"
     fovy="{look.camera_fovy}"/>
    <geom name="table" type="plane" pos="0 0 0" size="1.5 1.5 0.1" rgba="{table} 1" contype="1" conaffinity="2"
     friction="1 0.02 0.001" condim="4"/>
    {arm}
    {bodies}
  </worldbody>
  <actuator>
    {ARM_ACTUATORS}
  </actuator>
</mujoco>"""
