"""The embedded arm: seven hinge joints with the Franka Panda's kinematics and limits, drawn with primitive shapes."""

from __future__ import annotations

import numpy as np

ARM_JOINTS = tuple(f"joint{number}" for number in range(1, 8))
FINGER_JOINTS = ("finger_left", "finger_right")
REST_POSITIONS = np.array([0.0, 0.04589838, 0.0, -2.37628997, 0.0, 2.42218835, np.pi / 4])
"""Joint angles (rad) that hold the gripper pointing down, 0.2 m above the middle of the table."""
TORQUE_LIMITS = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
FINGER_OPEN = 0.04
"""Travel of one finger (m); 0 is closed."""

# parent-frame position, orientation, joint range, mass, capsule (from, to, radius) per link
_LINKS: tuple[tuple[str, str, str, float, str, float], ...] = (
    ("0 0 0.333", "1 0 0 0", "-2.8973 2.8973", 2.5, "0 0 -0.19 0 0 0", 0.06),
    ("0 0 0", "0.70710678 -0.70710678 0 0", "-1.7628 1.7628", 2.5, "0 0 0 0 -0.2 0", 0.06),
    ("0 -0.316 0", "0.70710678 0.70710678 0 0", "-2.8973 2.8973", 2.0, "0 0 -0.12 0.08 0 0", 0.055),
    ("0.0825 0 0", "0.70710678 0.70710678 0 0", "-3.0718 -0.0698", 2.0, "0 0 0 -0.08 0.1 0", 0.055),
    ("-0.0825 0.384 0", "0.70710678 -0.70710678 0 0", "-2.8973 2.8973", 1.5, "0 0 -0.26 0 0.05 -0.05", 0.05),
    ("0 0 0", "0.70710678 0.70710678 0 0", "-0.0175 3.7525", 1.0, "0 0 0 0.088 0 0", 0.045),
    ("0.088 0 0", "0.70710678 0.70710678 0 0", "-2.8973 2.8973", 0.5, "0 0 0.02 0 0 0.08", 0.04),
)

_HAND = """
<body name="hand" pos="0 0 0.107" quat="0.92387953 0 0 -0.38268343">
  <inertial pos="0 0 0.04" mass="0.5" diaginertia="0.001 0.001 0.001"/>
  <geom type="box" pos="0 0 0.035" size="0.025 0.09 0.022" rgba="0.25 0.25 0.28 1" contype="2" conaffinity="1"/>
  <site name="grip" pos="0 0 0.1034" size="0.005"/>
  <camera name="wrist" pos="{wrist_position}" quat="{wrist_quaternion}" fovy="{wrist_fovy}"/>
  <body name="left_finger" pos="0 0 0.0584">
    <inertial pos="0 0 0.03" mass="0.05" diaginertia="1e-5 1e-5 1e-5"/>
    <joint name="finger_left" type="slide" axis="0 1 0" range="0 0.04" damping="4" armature="0.05"/>
    <geom type="box" pos="0 0.006 0.034" size="0.014 0.006 0.022" rgba="0.1 0.1 0.1 1" contype="2" conaffinity="1"
     friction="2 0.05 0.001" condim="4"/>
  </body>
  <body name="right_finger" pos="0 0 0.0584">
    <inertial pos="0 0 0.03" mass="0.05" diaginertia="1e-5 1e-5 1e-5"/>
    <joint name="finger_right" type="slide" axis="0 -1 0" range="0 0.04" damping="4" armature="0.05"/>
    <geom type="box" pos="0 -0.006 0.034" size="0.014 0.006 0.022" rgba="0.1 0.1 0.1 1" contype="2" conaffinity="1"
     friction="2 0.05 0.001" condim="4"/>
  </body>
</body>
"""

ARM_ACTUATORS = "\n".join(
    [f'<motor name="torque{i + 1}" joint="{joint}"/>' for i, joint in enumerate(ARM_JOINTS)]
    + [
        f'<position name="grip_{joint}" joint="{joint}" kp="600" ctrlrange="0 0.04" forcerange="-25 25"/>'
        for joint in FINGER_JOINTS
    ]
)


def arm_xml(base_position: str, wrist_position: str, wrist_quaternion: str, wrist_fovy: float) -> str:
    """MJCF of the arm's body tree. Positions are "x y z" in metres, quaternions "w x y z"."""
    hand = _HAND.format(wrist_position=wrist_position, wrist_quaternion=wrist_quaternion, wrist_fovy=wrist_fovy)
    tree = hand
    for number in range(len(_LINKS), 0, -1):
        position, quaternion, limits, mass, capsule, radius = _LINKS[number - 1]
        shade = "0.92 0.92 0.94 1" if number % 2 else "0.72 0.74 0.78 1"
        inertia = mass * 0.01
        tree = f"""
<body name="link{number}" pos="{position}" quat="{quaternion}">
  <inertial pos="0 0 0" mass="{mass}" diaginertia="{inertia} {inertia} {inertia}"/>
  <joint name="joint{number}" type="hinge" axis="0 0 1" range="{limits}" damping="0.5" armature="0.05"/>
  <geom type="capsule" fromto="{capsule}" size="{radius}" rgba="{shade}" contype="0" conaffinity="0"/>
  {tree}
</body>"""
    return f"""
<body name="base" pos="{base_position}">
  <geom type="cylinder" pos="0 0 0.07" size="0.08 0.07" rgba="0.72 0.74 0.78 1" contype="0" conaffinity="0"/>
  {tree}
</body>"""
