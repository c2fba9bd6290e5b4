"""Pictures that a LeRobotDataset keeps one by one (PNG, JPEG) instead of as video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vla.data import lerobot_keys as keys
from vla.data.images import resize_into
from vla.data.lerobot_files import read_parquet
from vla.errors import ReflexError

DECODE = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
"""Three channels of 8 bits, as stored: LeRobot turns no picture by its EXIF tag either."""


def read_pictures(
    root: Path, paths: Sequence[Path], column: str, episode: int, size: tuple[int, int], out: NDArray[np.uint8]
) -> None:
    """Decode the pictures of an episode into `out` [T, h, w, 3], resized where they differ from it.

    `paths` are the data files with its rows, whose cells hold a picture's bytes, or where its file is; `size` is the
    height and width they must have. Raises `ReflexError` for a picture that is missing, damaged or of another size.
    """
    found = np.zeros(len(out), dtype=bool)
    for path in paths:
        table = read_parquet(path, [column, keys.FRAME_INDEX], episode)
        for frame, cell in zip(table[keys.FRAME_INDEX].to_pylist(), table[column], strict=True):
            encoded = _encoded(cell.as_py(), root, path, column, episode)
            picture = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), DECODE) if encoded else None
            if picture is None or picture.shape[:2] != size or not 0 <= frame < len(out):
                raise ReflexError(
                    f"{path} has no {size[0]}x{size[1]} picture in column {column!r}, frame {frame} of episode "
                    f"{episode}; restore this file"
                )
            resize_into(np.ascontiguousarray(picture[..., ::-1]), out[frame])  # OpenCV decodes to BGR
            found[frame] = True
    if not found.all():
        frame = int(np.argmin(found))
        raise ReflexError(f"{paths[0]} has no picture in column {column!r}, frame {frame} of episode {episode}")


def _encoded(cell: Any, root: Path, data: Path, column: str, episode: int) -> bytes | None:
    """The bytes of a picture, from the cell itself or from the file that it names."""
    if isinstance(cell, bytes):
        return cell
    named = cell if isinstance(cell, str) else None
    if isinstance(cell, dict):
        if cell.get("bytes"):
            return bytes(cell["bytes"])
        named = cell.get("path")
    if not named:
        return None
    for candidate in _places(Path(named), root, column, episode):
        if candidate.is_file():
            return candidate.read_bytes()
    raise ReflexError(
        f"{data} names pictures instead of holding them (column {column!r}), and {named} is neither there nor under "
        f"{root}: copy the dataset's folder of pictures too, or write the dataset again with embedded pictures"
    )


def _places(named: Path, root: Path, column: str, episode: int) -> list[Path]:
    """Where a picture may be: as named, below the dataset, and where LeRobot's recorder puts it."""
    own = root / "images" / column / f"episode-{episode:06d}" / named.name
    moved = []  # an absolute path of another machine, from the folder of pictures on
    if "images" in named.parts:
        moved.append(root.joinpath(*named.parts[named.parts.index("images") :]))
    return [root / named, *moved, own]  # an absolute path stays itself when it is joined to another
