"""Compiled models taken apart and put together."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.libero import model_parts
from sim.libero.mesh_fields import mesh_from_bytes, mesh_to_bytes
from sim.libero.model_parts import (
    ModelParts,
    picture_from_bytes,
    picture_to_bytes,
    put_together,
    saved,
    take_apart,
)

SCENE = """
<mujoco>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="1 0 0" rgb2="0 0 1" width="16" height="16"/>
    <texture name="floor" type="2d" builtin="checker" rgb1="1 1 1" rgb2="0 1 0" width="24" height="12"/>
    <mesh name="wedge" vertex="0 0 0  1 0 0  0 1 0  0 0 1  1 0 1  0 1 1"/>
    <mesh name="sheet" vertex="0 0 0  1 0 0  1 1 0  0 1 0  0.5 0.5 -1" texcoord="0 0  1 0  1 1  0 1  0.5 0.5"
          face="0 1 2  0 2 3  1 0 4  2 1 4  3 2 4  0 3 4"/>
    <material name="floor" texture="floor"/>
  </asset>
  <worldbody>
    <geom type="plane" size="1 1 1" material="floor"/>
    <body name="box"><freejoint/><geom size="0.1 0.1 0.1" type="box"/><geom size="0.2" pos="1 0 0"/></body>
    <body name="wedge"><freejoint/><geom type="mesh" mesh="wedge"/></body>
    <body name="sheet"><freejoint/><geom type="mesh" mesh="sheet"/></body>
  </worldbody>
</mujoco>
"""


def test_a_model_is_put_together_from_its_parts() -> None:
    model = mujoco.MjModel.from_xml_string(SCENE)
    parts = take_apart(model)
    stored = ModelParts(
        parts.between,
        [mesh_from_bytes(mesh_to_bytes(mesh)) for mesh in parts.meshes],
        parts.corrections,
        [picture_from_bytes(picture_to_bytes(picture)) for picture in parts.pictures],
        parts.crc32,
    )
    content = put_together(stored)
    assert content == saved(model)
    assert saved(mujoco.MjModel.from_binary_path("scene.mjb", {"scene.mjb": content})) == content
    assert [picture.shape for picture in parts.pictures] == 6 * [(16, 16, 3)] + [(12, 24, 3)]
    assert [len(mesh["mesh_texcoord"]) for mesh in parts.meshes] == [0, 5]
    for name in ("mesh_facenormal", "mesh_polyvertadr", "mesh_polymapadr", "mesh_polymapnum", "mesh_polymap"):
        assert parts.corrections[name] == b"", name  # MuJoCo computes the same


def test_a_model_without_meshes_and_textures() -> None:
    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
    parts = take_apart(model)
    assert not parts.meshes and not parts.pictures
    assert put_together(parts) == saved(model)


def test_another_order_of_fields_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_parts, "FIELDS", model_parts.FIELDS[::-1])
    with pytest.raises(ValueError, match=r"does not save .* where it is looked for"):
        take_apart(mujoco.MjModel.from_xml_string(SCENE))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 256), st.integers(0, 1000))
def test_a_picture_comes_back_to_the_bit(height: int, width: int, colours: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, colours, (height, width, 3), dtype=np.uint8)
    assert np.array_equal(picture_from_bytes(picture_to_bytes(picture)), picture)


def test_something_else_is_no_picture() -> None:
    with pytest.raises(ValueError, match="no picture"):
        picture_from_bytes(b"RIFF")
