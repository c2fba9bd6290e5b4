"""Boxes around triangles, worked by hand."""

from pathlib import Path

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError
from sim.so101.meshes import fit_boxes, read_stl

WEDGE = np.array([[[0, 0, 0], [4, 0, 0], [4, 2, 1]]], dtype=float)
"""One triangle that grows along x: at x its top is x / 2 in y and x / 4 in z."""


def stl(triangles: np.ndarray) -> bytes:
    facets = b"".join(np.zeros(3, "<f4").tobytes() + one.astype("<f4").tobytes() + b"\0\0" for one in triangles)
    return b"\0" * 80 + len(triangles).to_bytes(4, "little") + facets


def test_a_file_gives_its_triangles(tmp_path: Path) -> None:
    path = tmp_path / "part.stl"
    triangles = np.arange(18, dtype=float).reshape(2, 3, 3)
    path.write_bytes(stl(triangles))
    np.testing.assert_array_equal(read_stl(path), triangles)


@pytest.mark.parametrize("content", [b"", b"solid part\nendsolid", stl(np.zeros((0, 3, 3))), stl(WEDGE)[:-1]])
def test_what_is_no_binary_stl_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "part.stl"
    path.write_bytes(content)
    with pytest.raises(EnvironmentRequestError, match=r"part\.stl is no binary STL"):
        read_stl(path)


def test_one_box_holds_everything() -> None:
    (box,) = fit_boxes(WEDGE)
    assert box.centre.tolist() == [2.0, 1.0, 0.5] and box.half_size.tolist() == [2.0, 1.0, 0.5]


def test_slabs_follow_a_taper() -> None:
    """The middle of the triangle has no corner: its edges are what the boxes must hold."""
    first, second = fit_boxes(WEDGE, 2)
    assert first.centre.tolist() == [1.0, 0.5, 0.25] and first.half_size.tolist() == [1.0, 0.5, 0.25]
    assert second.centre.tolist() == [3.0, 1.0, 0.5] and second.half_size.tolist() == [1.0, 1.0, 0.5]


def test_a_slab_without_anything_has_no_box() -> None:
    apart = np.array([[[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]], [[3, 0, 0], [2.9, 0, 0], [3, 0.1, 0]]])
    assert [round(float(box.centre[0]), 2) for box in fit_boxes(apart, 3)] == [0.05, 2.95]
