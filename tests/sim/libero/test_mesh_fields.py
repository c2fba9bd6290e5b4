"""Meshes as an archive keeps them, and what is computed from them again."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from sim.libero.mesh_fields import (
    KEPT,
    Mesh,
    bounding_boxes,
    byte_planes,
    corrected,
    correction,
    derived_fields,
    first_equal_rows,
    from_byte_planes,
    mesh_from_bytes,
    mesh_to_bytes,
    polygon_normals,
)


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    """Any content, with rows that repeat; sizes need not fit each other."""
    mesh = {}
    for name, (dtype, width) in KEPT.items():
        few = draw(arrays(dtype, (draw(st.integers(1, 3)), width)))
        mesh[name] = few[draw(arrays(np.int64, draw(st.integers(0, 6)), elements=st.integers(0, len(few) - 1)))]
        mesh[name] = mesh[name] if width > 1 else mesh[name].ravel()
    faces = len(mesh["mesh_face"])
    mesh["mesh_facetexcoord"] = draw(arrays("<i4", (faces, 3)))
    return mesh


@given(meshes())
def test_a_mesh_comes_back_to_the_bit(mesh: Mesh) -> None:
    restored = mesh_from_bytes(mesh_to_bytes(mesh))
    assert list(restored) == list(KEPT)
    for name, values in restored.items():
        assert values.shape == mesh[name].shape, name
        assert values.tobytes() == mesh[name].tobytes(), name


def test_something_else_is_no_mesh(tetrahedron: Mesh) -> None:
    content = mesh_to_bytes(tetrahedron)
    for other in (b"", content[:20], content[:-1]):
        with pytest.raises(ValueError):
            mesh_from_bytes(other)


def test_equal_rows_are_found_by_their_bits() -> None:
    values = np.array([[1, 2], [3, 4], [1, 2], [math.nan, 0], [3, 4], [math.nan, 0], [3, -0.0]], dtype=np.float32)
    assert first_equal_rows(values).tolist() == [0, 1, 0, 3, 1, 3, 6]


def test_byte_planes_of_two_numbers() -> None:
    values = np.array([0x04030201, 0x14131211], dtype="<i4")
    assert byte_planes(values) == bytes([0x01, 0x11, 0x02, 0x12, 0x03, 0x13, 0x04, 0x14])
    assert from_byte_planes(byte_planes(values), "<i4", 1).tolist() == values.tolist()


def test_the_normal_of_a_polygon() -> None:
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0], [0, 0, 5], [4, 0, 0]], dtype=np.float32)
    corners = np.array([0, 1, 2, 0, 2, 3, 0, 1, 4])  # on the floor, on a wall, on one line
    assert polygon_normals(vertices, corners, np.array([0, 3, 6])).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_boxes_hold_what_is_in_them() -> None:
    triangles = np.array([[[0, 0, 0], [2, 0, 0], [0, 4, 0]], [[6, 2, 2], [6, 8, 2], [6, 2, 4]]], dtype=np.float32)
    leaf = np.array([False, True, True])
    boxes = bounding_boxes(triangles, leaf, np.array([[1, 2], [-1, -1], [-1, -1]]), np.array([0, 1, 1]))
    assert boxes.tolist() == [[3, 4, 2, 3, 4, 2], [1, 2, 0, 1, 2, 0], [6, 5, 3, 0, 3, 1]]


@pytest.fixture
def tetrahedron() -> Mesh:
    """With faces numbered 0 to 3, of which the tree holds two in each half."""
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], dtype=np.int32)
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    return {
        "mesh_vert": vertices,
        "mesh_normal": vertices,
        "mesh_texcoord": np.zeros((0, 2), dtype=np.float32),
        "mesh_face": faces,
        "mesh_facetexcoord": np.zeros_like(faces),
        "mesh_polyvertnum": np.full(4, 3, dtype=np.int32),
        "mesh_polyvert": faces.ravel(),
        "bvh_depth": np.array([0, 1, 2, 2, 1, 2, 2], dtype=np.int32),
        "bvh_child": np.array([[1, 4], [2, 3], [-1, -1], [-1, -1], [5, 6], [-1, -1], [-1, -1]], dtype=np.int32),
        "bvh_nodeid": np.array([-1, -1, 0, 1, -1, 2, 3], dtype=np.int32),
    }


def test_what_follows_from_two_tetrahedra(tetrahedron: Mesh) -> None:
    far = {**tetrahedron, "mesh_vert": tetrahedron["mesh_vert"] + np.float32(10)}
    fields = derived_fields([tetrahedron, far])
    assert fields["mesh_facenormal"].tolist() == 2 * tetrahedron["mesh_face"].tolist()
    assert fields["mesh_polyvertadr"].tolist() == list(range(0, 24, 3))
    assert fields["mesh_polymapnum"].tolist() == 8 * [3]
    assert fields["mesh_polymapadr"].tolist() == list(range(0, 24, 3))
    assert fields["mesh_polymap"].reshape(8, 3).tolist() == 2 * [[0, 1, 3], [0, 1, 2], [0, 2, 3], [1, 2, 3]]
    normals = fields["mesh_polynormal"].reshape(2, 4, 3)
    third = math.sqrt(1 / 3)
    assert normals[0].tolist() == [[0, 0, -1], [0, -1, 0], pytest.approx([third] * 3), [-1, 0, 0]]
    assert normals[1] == pytest.approx(normals[0])
    boxes = fields["bvh_aabb"].reshape(2, 7, 6)
    assert boxes[0, 0].tolist() == [0.5] * 6
    assert boxes[0, 2].tolist() == [0.5, 0.5, 0, 0.5, 0.5, 0]
    assert boxes[1, 6].tolist() == [10, 10.5, 10.5, 0, 0.5, 0.5]


def test_no_meshes_no_fields() -> None:
    assert derived_fields([]) == {}


@given(arrays(np.float64, (4, 2)), arrays(np.float64, (4, 2)), st.booleans())
def test_a_correction_gives_every_bit(computed: NDArray[np.float64], true: NDArray[np.float64], alike: bool) -> None:
    true = computed if alike else true
    change = correction(computed, true)
    assert (len(change) == 0) or not alike
    assert corrected(computed, change).tobytes() == true.tobytes()
