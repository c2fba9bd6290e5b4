"""What stands around an emulated Franka: a tabletop scene beside the arm in franky-sim's physics, and its pictures.

The tabletop suite's arm has the Panda's kinematics, which the FR3's are, and its base stands at `BASE`. So the same
joint angles put the hand in the same place in both, and the scene can be drawn and judged by the suite itself.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import Split
from sim.tabletop.arm import REST_POSITIONS
from sim.tabletop.environment import TabletopEnvironment
from sim.tabletop.goals import WorldState
from sim.tabletop.scene import BUTTON_PRESSED, HALF_SIZE, LIT_BUTTON, PLATE_HALF_HEIGHT, Scene, scene_xml
from sim.tabletop.tasks import Layout, initial_layout

BASE = (-0.5, 0.0, 0.0)
"""Where the arm's base stands in the scene (m)."""
_PREFIX = "robot0_"
_FINGER_FRICTION = (2.0, 0.05, 0.001)
"""Of the suite's own fingers: rubber tips."""


@dataclass(frozen=True)
class Standing:
    """Which scene it is."""

    task: int
    split: Split
    init_state: int

    @property
    def layout(self) -> Layout:
        """Where everything starts. Raises `EnvironmentRequestError` for one that does not exist."""
        return initial_layout(self.task, self.split, self.init_state)

    @property
    def joints(self) -> NDArray[np.float64]:
        """Joint angles [7] (rad) that the arm starts with."""
        return np.asarray(REST_POSITIONS + self.layout.joint_noise, np.float64)


def add_scene(worldbody: ET.Element, scene: Scene) -> None:
    """Put the scene's objects beside a robot; its table is the simulator's ground."""
    own = ET.fromstring(scene_xml(scene)).find("worldbody")
    assert own is not None
    for body in own.findall("body"):
        if body.get("name") != "base":  # the suite's arm; franky-sim brings its own
            worldbody.append(body)


class ScenePhysics:
    """The scene in a running franky-sim: put things into place, and say where they are."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, scene: Scene) -> None:
        self.model, self.data, self.scene = model, data, scene
        names = [f"{_PREFIX}fr3_joint{number}" for number in range(1, 8)]
        names += [f"{_PREFIX}finger_joint{number}" for number in (1, 2)]
        self._arm = [int(model.joint(name).qposadr[0]) for name in names]
        self._objects = [int(model.joint(f"object{index}").qposadr[0]) for index in range(len(scene.objects))]
        slides = (["drawer"] if scene.drawer else []) + (["button"] if scene.button else [])
        self._slides = [int(model.joint(name).qposadr[0]) for name in slides]
        self._order = np.array(
            self._arm + [address + part for address in self._objects for part in range(7)] + self._slides
        )
        for finger in ("left_finger", "right_finger"):
            body = model.body(f"{_PREFIX}{finger}")
            for geom in range(int(body.geomadr[0]), int(body.geomadr[0] + body.geomnum[0])):
                model.geom_friction[geom] = _FINGER_FRICTION

    def place(self, layout: Layout) -> None:
        """Put everything but the arm where the layout says, at rest."""
        model, data = self.model, self.data
        for index, (address, (x, y, yaw)) in enumerate(zip(self._objects, layout.objects, strict=True)):
            data.qpos[address : address + 7] = (x, y, HALF_SIZE, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
            velocity = int(model.joint(f"object{index}").dofadr[0])
            data.qvel[velocity : velocity + 6] = 0.0
        for index, (x, y) in enumerate(layout.plates):
            model.body_pos[model.body(f"plate{index}").id] = (x, y, PLATE_HALF_HEIGHT)
        if self.scene.drawer:
            model.body_pos[model.body("cabinet").id][0] = layout.drawer_x
            data.qpos[model.joint("drawer").qposadr[0]] = layout.drawer_slide
        if self.scene.button:
            model.body_pos[model.body("button_base").id][:2] = layout.button
        mujoco.mj_forward(model, data)

    def numbers(self) -> NDArray[np.float64]:
        """Where everything is: joints (7), fingers (2), 7 for each object, then drawer and button if there are."""
        return np.asarray(self.data.qpos[self._order], np.float64)


class MirroredTabletop(TabletopEnvironment):
    """The suite's environment, never stepped: it is shown where things are, and draws and judges them."""

    def __init__(self, standing: Standing, image_size: int) -> None:
        super().__init__(standing.task, image_size)
        self.has_succeeded = False
        self.put(standing)

    def put(self, standing: Standing) -> None:
        """Begin anew in an initial state."""
        self.reset_to_layout(standing.layout)
        self.has_succeeded = self.success = False

    def show(self, numbers: Sequence[float] | NDArray[np.float64]) -> None:
        """Show where everything is, as `ScenePhysics.numbers` says it, and judge it."""
        values = np.asarray(numbers, np.float64)
        qpos = self.data.qpos
        qpos[:9] = values[:9]
        place = 9
        for address in self._object_addresses:
            qpos[address : address + 7] = values[place : place + 7]
            place += 7
        for address in (self._drawer_address, self._button_address):
            if address >= 0:
                qpos[address] = values[place]
                place += 1
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        if self._button_address >= 0 and qpos[self._button_address] > BUTTON_PRESSED:
            self._button_latched = True
            self.model.geom_rgba[self._button_geom] = LIT_BUTTON
        world = self.world_state()
        self.success = all(goal.holds(world) for goal in self.task.goals)
        self.has_succeeded |= self.success

    def status(self) -> dict[str, Any]:
        """What is true in the scene, JSON-ready."""
        world: WorldState = self.world_state()
        return {
            "task": self.task.name,
            "instruction": self.instruction,
            "success": bool(self.success),
            "has_succeeded": bool(self.has_succeeded),
            "joints": self.data.qpos[:7].tolist(),
            "hand": self.robot_state()[:6].astype(float).tolist(),
            "gripper_opening": world.gripper_opening,
            "objects": {name: place.tolist() for name, place in world.objects.items()},
        }
