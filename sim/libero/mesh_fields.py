"""What a compiled model holds of its meshes, without what follows from the rest of it.

Vertices, texture coordinates, faces, convex polygons and the tree of bounding boxes are kept. Polygon normals, the
polygons around each vertex and the boxes themselves, more than half of the bytes, are computed again as MuJoCo's
compiler does. Where its result is another one (boxes without depth, polygons without area), a correction is kept.

Names of fields are `mjModel`'s. Indices in a field count within its mesh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Array = NDArray[Any]

KEPT: Mapping[str, tuple[str, int]] = {
    "mesh_vert": ("<f4", 3),
    "mesh_normal": ("<f4", 3),
    "mesh_texcoord": ("<f4", 2),
    "mesh_face": ("<i4", 3),
    "mesh_facetexcoord": ("<i4", 3),
    "mesh_polyvertnum": ("<i4", 1),
    "mesh_polyvert": ("<i4", 1),
    "bvh_depth": ("<i4", 1),
    "bvh_child": ("<i4", 2),
    "bvh_nodeid": ("<i4", 1),
}
"""Type and width of the rows."""

REPEATING = ("mesh_vert", "mesh_normal", "mesh_texcoord")
"""Fields whose rows mostly repeat an earlier one, for another face."""

Mesh = Mapping[str, Array]
"""The kept fields of one mesh, [rows, width], or [rows] where the width is 1."""


def mesh_to_bytes(mesh: Mesh) -> bytes:
    """A mesh in an order that compresses well; `mesh_from_bytes` reads it.

    Of repeating fields: the distinct rows, and how far back every row stood first.
    """
    arrays: list[Array] = []
    first: dict[str, Array] = {}
    for name in KEPT:
        values = mesh[name]
        if name in REPEATING:
            first[name] = first_equal_rows(values)
            expected = _expected_first(name, len(values), first)
            arrays += [expected - first[name], values[first[name] == np.arange(len(values))]]
        elif name == "mesh_facetexcoord":
            arrays.append(values - mesh["mesh_face"])  # the same in most meshes
        else:
            arrays.append(values)
    lengths = np.array([len(array) for array in arrays], dtype="<i4")
    return lengths.tobytes() + b"".join(byte_planes(array) for array in arrays)


def mesh_from_bytes(content: bytes) -> Mesh:
    """What `mesh_to_bytes` wrote. Raises `ValueError` when the content is something else."""
    layout: list[tuple[str, int]] = []
    for field, row in KEPT.items():
        layout += [("<i4", 1), row] if field in REPEATING else [row]
    start = 4 * len(layout)
    arrays = []
    for length, (dtype, width) in zip(np.frombuffer(content[:start], "<i4").tolist(), layout, strict=True):
        end = start + 4 * length * width
        arrays.append(from_byte_planes(content[start:end], dtype, width))
        start = end
    streams = iter(arrays)
    mesh: dict[str, Array] = {}
    first: dict[str, Array] = {}
    for name in KEPT:
        if name in REPEATING:
            back, rows = next(streams), next(streams)
            first[name] = _expected_first(name, len(back), first) - back
            distinct = np.cumsum(first[name] == np.arange(len(back))) - 1
            mesh[name] = rows[distinct[first[name]]]
        else:
            mesh[name] = next(streams)
    mesh["mesh_facetexcoord"] = mesh["mesh_facetexcoord"] + mesh["mesh_face"]
    return mesh


def _expected_first(name: str, length: int, first: Mapping[str, Array]) -> Array:
    """A texture coordinate is a repeated one where its vertex is; other rows are new."""
    if name == "mesh_texcoord" and length == len(first["mesh_vert"]):
        return first["mesh_vert"]
    return np.arange(length, dtype=np.int32)


def first_equal_rows(values: Array) -> NDArray[np.int32]:
    """For each row [n, width], the index of the first row with the same bits, int32 [n]."""
    rows = np.ascontiguousarray(values).view(np.dtype((np.void, values.itemsize * values.shape[1]))).ravel()
    _, index, inverse = np.unique(rows, return_index=True, return_inverse=True)
    return index[inverse].astype(np.int32)


def byte_planes(values: Array) -> bytes:
    """The first bytes of all numbers, then the second bytes, and so on: high bytes of neighbours are alike."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def from_byte_planes(content: bytes, dtype: str, width: int) -> Array:
    """What `byte_planes` wrote, [rows, width], or [rows] where the width is 1."""
    planes = np.frombuffer(content, dtype=np.uint8).reshape(np.dtype(dtype).itemsize, -1)
    values = np.ascontiguousarray(planes.T).reshape(-1).view(dtype)
    return values if width == 1 else values.reshape(-1, width)


def derived_fields(meshes: Sequence[Mesh]) -> dict[str, Array]:
    """What follows from the kept fields, for all meshes of a model one after another."""
    if not meshes:
        return {}
    offsets = {name: np.cumsum([0, *(len(mesh[name]) for mesh in meshes)], dtype=np.int32) for name in KEPT}

    def shifted(name: str, by: str) -> Array:
        return np.concatenate([mesh[name] + start for mesh, start in zip(meshes, offsets[by][:-1], strict=True)])

    vertices = np.concatenate([mesh["mesh_vert"] for mesh in meshes])
    faces = shifted("mesh_face", "mesh_vert")
    polygons = offsets["mesh_polyvertnum"]
    sizes = np.concatenate([mesh["mesh_polyvertnum"] for mesh in meshes])
    owner = np.repeat(np.arange(len(meshes)), np.diff(polygons))
    corners_before = np.append(0, np.cumsum(sizes, dtype=np.int32)).astype(np.int32)
    corners = np.concatenate([mesh["mesh_polyvert"] for mesh in meshes])
    corners = corners + np.repeat(offsets["mesh_vert"][owner], sizes)
    index_in_mesh = (np.arange(len(sizes)) - polygons[owner]).astype(np.int32)
    around = csr_array(
        (np.repeat(index_in_mesh, sizes), corners, corners_before), shape=(len(sizes), len(vertices))
    ).tocsc()  # by vertex instead of by polygon
    leaf = np.concatenate([mesh["bvh_nodeid"] for mesh in meshes]) >= 0
    return {
        "mesh_facenormal": np.concatenate([mesh["mesh_face"] for mesh in meshes]),
        "mesh_polyvertadr": corners_before[:-1],
        "mesh_polymapadr": around.indptr[:-1].astype(np.int32),
        "mesh_polymapnum": np.diff(around.indptr).astype(np.int32),
        "mesh_polymap": around.data,
        "mesh_polynormal": polygon_normals(vertices, corners, corners_before[:-1]),
        "bvh_aabb": bounding_boxes(
            vertices[faces[shifted("bvh_nodeid", "mesh_face")[leaf]]],
            leaf,
            shifted("bvh_child", "bvh_nodeid"),
            np.concatenate([mesh["bvh_depth"] for mesh in meshes]),
        ),
    }


def polygon_normals(vertices: Array, corners: Array, first: Array) -> NDArray[np.float64]:
    """Unit normals [polygons, 3] from the first three corners of each; zero where those lie on a line.

    `vertices` [n, 3]; `corners` are indices of vertices, and polygons begin at `first` among them.
    """
    a, b, c = (vertices[corners[first + corner]].astype(np.float64).T for corner in range(3))
    u, v = b - a, c - a
    normal = np.stack([u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]])
    length = np.sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2])
    return np.ascontiguousarray(np.divide(normal, length, out=np.zeros_like(normal), where=length > 0).T)


def bounding_boxes(triangles: Array, leaf: NDArray[np.bool_], child: Array, depth: Array) -> NDArray[np.float64]:
    """Centres and half sizes [nodes, 6] of a tree's boxes.

    `triangles` [leaves, 3, 3] are the leaves' corners; `leaf` [nodes] says which nodes those are, `child` [nodes, 2]
    what the others contain, and `depth` [nodes] how far each is from its root.
    """
    low, high = np.zeros((2, len(leaf), 3), dtype=triangles.dtype)
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    low[leaf], high[leaf] = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
    inner = np.flatnonzero(~leaf)
    inner = inner[np.argsort(-depth[inner], kind="stable")]
    levels = [0, *(np.flatnonzero(np.diff(depth[inner])) + 1).tolist(), len(inner)]
    for start, end in pairwise(levels):  # from the deepest
        nodes = inner[start:end]
        left, right = child[nodes].T
        low[nodes] = np.minimum(low[left], low[right])
        high[nodes] = np.maximum(high[left], high[right])
    low, high = low.astype(np.float64), high.astype(np.float64)
    return np.hstack([0.5 * (low + high), 0.5 * (high - low)])


def correction(computed: Array, true: Array) -> bytes:
    """What turns `computed` into `true`, bit by bit, where few numbers differ; `corrected` applies it."""
    bits = f"<u{true.itemsize}"
    true_bits = np.ascontiguousarray(true).reshape(-1).view(bits)
    where = np.flatnonzero(true_bits != np.ascontiguousarray(computed).reshape(-1).view(bits)).astype("<u4")
    return bytes(where.tobytes() + true_bits[where].tobytes())


def corrected(computed: Array, change: bytes) -> Array:
    """`computed` [...] with a `correction`."""
    values = np.array(computed, order="C")
    count = len(change) // (4 + values.itemsize)
    where = np.frombuffer(change[: 4 * count], dtype="<u4")
    values.reshape(-1).view(f"<u{values.itemsize}")[where] = np.frombuffer(change[4 * count :], f"<u{values.itemsize}")
    return values
