"""Building a task with robosuite: its model, what stepping and judging must know of it, and its initial states.

The only module that touches robosuite's objects; see `sim.libero.build`, whose shape it has.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, Split
from sim.libero.build import define_robot, private_random_state, robosuite_options
from sim.libero.definition import SceneDefinition
from sim.libero.installation import PACKAGE_VERSIONS, quiet_robosuite, without_egl_device
from sim.robosuite.goals import BIN_HEIGHT, Goal, InBins, Lifted, OnPegs, Opened, Stacked, Wiped
from sim.robosuite.tasks import RobosuiteTask, state_seed

ARM_NOISE = 0.02
"""Deviation (rad) of the arm's initial joint positions, robosuite's own."""


def check_version() -> None:
    """Raise `EnvironmentRequestError` unless the one supported robosuite is installed."""
    wanted = PACKAGE_VERSIONS["robosuite"]
    try:
        found = importlib.metadata.version("robosuite")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found != wanted:
        raise EnvironmentRequestError(
            f"the robosuite suite needs robosuite {wanted}, but {found} is installed; run: pip install "
            f"robosuite=={wanted}"
        )


class RobosuiteBuilder:
    """One task as robosuite builds it, with the initial states drawn for it."""

    def __init__(self, task: RobosuiteTask) -> None:
        """Build the task's model (a second). Raises `EnvironmentRequestError` for another version of robosuite."""
        check_version()
        self.task = task
        with private_random_state(0):
            self._domain = _make(task)
        self.model: mujoco.MjModel = self._domain.sim.model._model
        self.data: mujoco.MjData = self._domain.sim.data._data
        self.goal = _goal(self._domain)
        self.definition = _define(self._domain)

    def place(self, split: Split, index: int) -> NDArray[np.float64]:
        """Draw an initial state; returns it [1 + nq + nv], to be loaded. What is fixed in the model is placed there."""
        domain, seed = self._domain, state_seed(self.task, split, index)
        with private_random_state(seed):
            domain.sim.reset()
            domain._reset_internal()
        domain.sim.forward()
        domain.visualize(vis_settings=dict.fromkeys(domain._visualizations, False))
        # The controller pulls to the arm's own posture; the noise is on where the episode begins.
        positions = self.data.qpos.copy()
        joints = self.definition.arm.joint_positions
        positions[joints] += np.random.default_rng(seed).normal(0.0, ARM_NOISE, len(joints))
        return np.concatenate([[self.data.time], positions, self.data.qvel])


def _make(task: RobosuiteTask) -> Any:
    quiet_robosuite()
    with without_egl_device():
        import robosuite

    domain: Any = robosuite.make(task.environment, robots="Panda", **robosuite_options())
    return domain


def _define(domain: Any) -> SceneDefinition:
    named = _placed_bodies(domain)
    return SceneDefinition(
        **define_robot(domain),
        bodies=named,
        fixture_bodies=tuple(named.values()),
        goal=(),
        flames=(),
    )


def _placed_bodies(domain: Any) -> dict[str, int]:
    """What a reset places in the model, not in the state: the door, the dirt, and the marks in the bins."""
    objects = [domain.door] if hasattr(domain, "door") else []
    objects += getattr(domain, "visual_objects", [])
    objects += getattr(domain.model.mujoco_arena, "markers", [])
    return {entry.name: _body(domain, entry) for entry in objects}


def _goal(domain: Any) -> Goal:
    model, kind = domain.sim.model, type(domain).__name__
    site = int(domain.robots[0].eef_site_id)
    if kind == "Lift":
        return Lifted(int(domain.cube_body_id), float(domain.model.mujoco_arena.table_offset[2]))
    if kind == "Stack":
        pads = domain.robots[0].gripper.important_geoms
        return Stacked(
            upper=int(domain.cubeA_body_id),
            table_height=float(domain.table_offset[2]),
            upper_geoms=_geoms(model, domain.cubeA.contact_geoms),
            lower_geoms=_geoms(model, domain.cubeB.contact_geoms),
            finger_pads=tuple(_geoms(model, pads[side]) for side in ("left_fingerpad", "right_fingerpad")),
        )
    if kind == "Door":
        return Opened(int(domain.hinge_qpos_addr))
    if kind.startswith("NutAssembly"):
        chosen = _chosen(domain, len(domain.nuts), "nut_id")
        pegs = (int(domain.peg1_body_id), int(domain.peg2_body_id))
        return OnPegs(
            nuts=tuple(_body(domain, domain.nuts[index]) for index in chosen),
            pegs=tuple(pegs[index] for index in chosen),
            table_height=float(domain.table_offset[2]),
            site=site,
        )
    if kind.startswith("PickPlace"):
        chosen = _chosen(domain, len(domain.objects), "object_id")
        bins = [_bin(domain, index) for index in chosen]
        return InBins(
            objects=tuple(_body(domain, domain.objects[index]) for index in chosen),
            lows=tuple(low for low, _ in bins),
            highs=tuple(high for _, high in bins),
            site=site,
        )
    return _wiped(domain)


def _chosen(domain: Any, count: int, attribute: str) -> list[int]:
    """Which objects a task is about: all, or the one it is named after."""
    return [int(getattr(domain, attribute))] if domain.single_object_mode == 2 else list(range(count))


def _bin(domain: Any, index: int) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Lowest and highest corner (m) of the quarter of the second bin that an object belongs to."""
    x, y, z = (float(value) for value in domain.bin2_pos)
    width, depth = (float(value) / 2 for value in domain.bin_size[:2])
    low_x = x - width if index in (0, 2) else x
    low_y = y - depth if index < 2 else y
    return (low_x, low_y, z), (low_x + width, low_y + depth, z + BIN_HEIGHT)


def _wiped(domain: Any) -> Wiped:
    model, robot = domain.sim.model, domain.robots[0]
    corners = _geoms(model, robot.gripper.important_geoms["corners"])
    ranges = model.jnt_range[robot._ref_joint_indexes]
    markers = domain.model.mujoco_arena.markers
    return Wiped(
        dirt_bodies=tuple(_body(domain, marker) for marker in markers),
        dirt_geoms=_geoms(model, [marker.visual_geoms[0] for marker in markers]),
        corners=(corners[0], corners[1], corners[2], corners[3]),
        arm_geoms=_geoms(model, robot.robot_model.contact_geoms),
        joint_positions=tuple(int(address) for address in robot._ref_joint_pos_indexes),
        joint_ranges=tuple((float(low), float(high)) for low, high in ranges),
    )


def _geoms(model: Any, names: list[str]) -> tuple[int, ...]:
    return tuple(int(model.geom_name2id(name)) for name in names)


def _body(domain: Any, thing: Any) -> int:
    return int(domain.sim.model.body_name2id(thing.root_body))
