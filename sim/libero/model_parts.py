"""A compiled model's bytes in parts that scenes share: each mesh, each picture of a texture, and what lies between.

Put together again they are the same bytes: `take_apart` makes sure of that.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sim.libero.mesh_fields import KEPT, Mesh, corrected, correction, derived_fields

FIELDS = (
    "bvh_depth",
    "bvh_child",
    "bvh_nodeid",
    "bvh_aabb",
    "mesh_vert",
    "mesh_normal",
    "mesh_texcoord",
    "mesh_face",
    "mesh_facenormal",
    "mesh_facetexcoord",
    "mesh_polynormal",
    "mesh_polyvertadr",
    "mesh_polyvertnum",
    "mesh_polyvert",
    "mesh_polymapadr",
    "mesh_polymapnum",
    "mesh_polymap",
    "tex_data",
)
"""Of `mjModel`, in the order in which MuJoCo saves them."""

Picture = NDArray[np.uint8]
"""[height, width, 3]"""


@dataclass(frozen=True)
class ModelParts:
    """A compiled model."""

    between: Sequence[bytes]
    """What lies before, between and after `FIELDS`."""
    meshes: Sequence[Mesh]
    corrections: Mapping[str, bytes]
    """Of the fields that are computed from the meshes."""
    pictures: Sequence[Picture]
    """Textures, one after another; six for a cube."""
    crc32: int
    """Of the model's bytes."""


def take_apart(model: mujoco.MjModel) -> ModelParts:
    """Raises `ValueError` when the parts would not give the model's bytes again."""
    content = saved(model)
    between, position = [], 0
    fields = {name: _field(model, name) for name in FIELDS}
    for name, field in fields.items():
        start = content.find(field.tobytes(), position)
        if start < 0:
            raise ValueError(f"MuJoCo {mujoco.__version__} does not save {name} where it is looked for")
        between.append(content[position:start])
        position = start + field.nbytes
    between.append(content[position:])
    meshes = _meshes(model, fields)
    parts = ModelParts(
        between,
        meshes,
        {name: correction(computed, fields[name]) for name, computed in derived_fields(meshes).items()},
        _pictures(model),
        zlib.crc32(content),
    )
    if put_together(parts) != content:
        raise ValueError("a model's parts do not give its bytes again")
    return parts


def put_together(parts: ModelParts) -> bytes:
    """The model's bytes, as MuJoCo saves and loads them."""
    fields: dict[str, Sequence[NDArray[Any]]] = {name: [mesh[name] for mesh in parts.meshes] for name in KEPT}
    for name, computed in derived_fields(parts.meshes).items():
        fields[name] = [corrected(computed, parts.corrections[name])]
    fields["tex_data"] = parts.pictures
    pieces: list[bytes | memoryview] = []
    for gap, name in zip(parts.between, (*FIELDS, ""), strict=True):
        pieces += [gap, *(np.ascontiguousarray(values).data for values in fields.get(name, ()))]
    return b"".join(pieces)


def saved(model: mujoco.MjModel) -> bytes:
    """A model's bytes."""
    content = np.empty(mujoco.mj_sizeModel(model), dtype=np.uint8)
    mujoco.mj_saveModel(model, None, content)
    return content.tobytes()


def picture_to_bytes(picture: Picture) -> bytes:
    """Lossless WebP, two fifths smaller than general compression; seconds for 2048 px."""
    stream = BytesIO()
    # Red and blue change places, as they do again in OpenCV, which decodes in two thirds of Pillow's time.
    Image.fromarray(picture[..., ::-1]).save(stream, "webp", lossless=True, quality=100, method=4, exact=True)
    return stream.getvalue()


def picture_from_bytes(content: bytes) -> Picture:
    """What `picture_to_bytes` wrote. Raises `ValueError` for something else."""
    picture = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError("a texture is no picture")
    return picture.astype(np.uint8, copy=False)


def _field(model: mujoco.MjModel, name: str) -> NDArray[Any]:
    """A field, without the bounding boxes of bodies, which come before those of meshes."""
    field: NDArray[Any] = getattr(model, name)
    return field[len(field) - int(model.mesh_bvhnum.sum()) :] if name.startswith("bvh_") else field


def _meshes(model: mujoco.MjModel, fields: Mapping[str, NDArray[Any]]) -> list[Mesh]:
    polygons = np.append(0, np.cumsum(model.mesh_polynum))
    corners = np.append(0, np.cumsum(model.mesh_polyvertnum))[polygons]
    rows = {
        "mesh_vert": model.mesh_vertnum,
        "mesh_normal": model.mesh_normalnum,
        "mesh_texcoord": model.mesh_texcoordnum,
        "mesh_polyvertnum": model.mesh_polynum,
        "mesh_polyvert": np.diff(corners),
    }
    per_mesh: list[dict[str, NDArray[Any]]] = [{} for _ in range(model.nmesh)]
    for name in KEPT:
        counts = rows.get(name, model.mesh_bvhnum if name.startswith("bvh_") else model.mesh_facenum)
        for mesh, values in zip(per_mesh, np.split(fields[name], np.cumsum(counts))[:-1], strict=True):
            mesh[name] = values
    return list(per_mesh)


def _pictures(model: mujoco.MjModel) -> list[Picture]:
    """The six pictures of a cube lie below each other."""
    pictures: list[Picture] = []
    for start, height, width in zip(model.tex_adr, model.tex_height, model.tex_width, strict=True):
        texture = model.tex_data[start : start + 3 * height * width].reshape(height, width, 3)
        pictures += np.split(texture, 6 if height == 6 * width else 1)
    return pictures
