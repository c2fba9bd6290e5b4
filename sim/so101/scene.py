"""The scene: the arm on a table, a block, and for one task a target, drawn with primitive shapes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.so101.model import PADS, arm_model

COLOURS = {"red": "0.85 0.10 0.10 1", "blue": "0.10 0.25 0.85 1", "green": "0.10 0.62 0.18 1"}
HALF_SIZE = 0.018
"""Half the side of a block (m)."""
TARGET_RADIUS = 0.04
"""Metres."""
SUBSTEPS = 16
"""Physics steps in one control step."""
TIMESTEP = 1.0 / (30 * SUBSTEPS)
_CAMERA_POSITION, _CAMERA_TARGET = (0.56, 0.0, 0.36), (0.185, 0.0, 0.045)
_WRIST_POSITION, _WRIST_TARGET = (0.012, 0.085, -0.015), (0.012, -0.02, -0.11)


@dataclass(frozen=True)
class Scene:
    """What stands on the table. Colours are keys of `COLOURS`."""

    block: str
    target: str | None = None


def _look_at(position: tuple[float, float, float], target: tuple[float, float, float], up: NDArray[np.float64]) -> str:
    backward = np.asarray(position) - np.asarray(target)
    backward = backward / np.linalg.norm(backward)
    right = np.cross(up, backward)
    right = right / np.linalg.norm(right)
    return " ".join(f"{value:.6f}" for value in (*right, *np.cross(backward, right)))


_FIRM = 'friction="1 0.02 0.001" condim="4" solref="0.01 1" solimp="0.95 0.99 0.001" priority="1"'
"""A block's contacts, with jaws too: by MuJoCo's defaults the jaws would sink 4 mm into something so light."""

_OPTIONS = f"""
<options>
  <option timestep="{TIMESTEP:.12f}" integrator="implicitfast" cone="elliptic" impratio="10" iterations="30"
   ls_iterations="20"><flag autoreset="disable"/></option>
  <size memory="2M"/>
  <visual>
    <quality shadowsize="0" offsamples="0" numslices="10" numstacks="6" numquads="1"/>
    <global offwidth="512" offheight="512"/>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.35 0.35 0.35" specular="0 0 0"/>
    <map znear="0.01" zfar="10"/>
  </visual>
</options>"""


def _world(scene: Scene) -> str:
    camera = _look_at(_CAMERA_POSITION, _CAMERA_TARGET, np.array([0.0, 0.0, 1.0]))
    target = ""
    if scene.target is not None:
        # Painted on the table: nothing to stumble over, and no contact to solve for.
        target = (
            f'<body name="target"><geom type="cylinder" size="{TARGET_RADIUS} 0.001" pos="0 0 0.001" '
            f'rgba="{COLOURS[scene.target]}" contype="0" conaffinity="0"/></body>'
        )
    return f"""
<worldbody>
  <light pos="0.5 0.3 1.5" dir="-0.2 -0.15 -1" diffuse="0.5 0.5 0.5" specular="0 0 0" castshadow="false"/>
  <camera name="front" pos="{" ".join(map(str, _CAMERA_POSITION))}" xyaxes="{camera}" fovy="42"/>
  <geom name="table" type="plane" size="4 4 0.1" rgba="0.74 0.72 0.68 1" contype="1" conaffinity="2"
   friction="1 0.02 0.001"/>
  {target}
  <body name="block">
    <freejoint name="block"/>
    <geom name="block" type="box" size="{HALF_SIZE} {HALF_SIZE} {HALF_SIZE}" mass="0.05" rgba="{COLOURS[scene.block]}"
     contype="1" conaffinity="3" {_FIRM}/>
  </body>
</worldbody>"""


def _add_to_gripper(root: ElementTree.Element) -> None:
    """The wrist camera, and a site "grip": the middle of a block that lies against the fixed jaw's pad."""
    (gripper,) = [body for body in root.iter("body") if body.get("name") == "gripper"]
    (pad,) = [geom for geom in gripper.findall("geom") if geom.get("name") == PADS[0]]
    place = [float(number) for number in pad.attrib["pos"].split()]
    place[0] += float(pad.attrib["size"].split()[0]) + HALF_SIZE
    gripper.append(ElementTree.Element("site", name="grip", size="0.005", pos=" ".join(f"{x:.6f}" for x in place)))
    axes = _look_at(_WRIST_POSITION, _WRIST_TARGET, np.array([0.0, -1.0, 0.0]))
    position = " ".join(map(str, _WRIST_POSITION))
    gripper.append(ElementTree.Element("camera", name="wrist", pos=position, xyaxes=axes, fovy="70"))


def compile_scene(scene: Scene, image_size: int = 64) -> mujoco.MjModel:
    """The compiled scene, for pictures of up to `image_size` pixels a side or 512.

    Raises `EnvironmentRequestError` when the arm's package is not installed.
    """
    root = arm_model()
    _add_to_gripper(root)
    for element in ElementTree.fromstring(_OPTIONS):
        root.append(element)
    world = root.find("worldbody")
    assert world is not None
    world.extend(ElementTree.fromstring(_world(scene)))
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    view = model.vis.global_
    view.offwidth, view.offheight = max(view.offwidth, image_size), max(view.offheight, image_size)
    return model
