"""A suite in one file: compiled scenes, goals, initial states and names, for machines without robosuite and assets.

A zip file. `suite.json` holds what is not large; `meshes/`, `pictures/` and `between/` the parts of the compiled models
(`sim.libero.model_parts`), each once, since a suite's tasks have most of them in common; `states/` the initial states.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast, get_args
from weakref import WeakValueDictionary

import mujoco
import numpy as np
import pyarrow
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, Split
from sim.core.robosuite_control import ArmMemory
from sim.core.stepping import SteppingMode
from sim.libero.definition import SceneDefinition, SceneState
from sim.libero.mesh_fields import mesh_from_bytes, mesh_to_bytes
from sim.libero.model_parts import (
    ModelParts,
    Picture,
    picture_from_bytes,
    picture_to_bytes,
    put_together,
    take_apart,
)
from sim.libero.scene import LiberoScene
from sim.libero.shared_model import SharedModel
from sim.libero.source import InstalledSource
from sim.libero.tasks import NUM_INIT_STATES, LiberoTask, check_suite_name

FORMAT = 3
SUFFIX = ".libero"
SPLITS: tuple[Split, ...] = get_args(Split)

COMPRESSION = "zstd"
LEVEL = 15


def archive_path(folder: Path, suite: str) -> Path:
    """Where a folder of archives keeps a suite."""
    return folder / f"{suite}{SUFFIX}"


def pack(suite: str, path: Path, on_task: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Build every task of a suite and write its archive, atomically; minutes for ten tasks.

    Raises `EnvironmentRequestError` when the suite is unknown or LIBERO cannot build it.
    """
    check_suite_name(suite)
    source = InstalledSource(suite)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(partial, "w") as archive:
            parts, tasks = PartsWriter(archive), []
            for task in source.tasks:
                simulation = source.open(task.index, "exact")
                scene = simulation.scene
                tasks.append(
                    {
                        "name": task.name,
                        "instruction": task.instruction,
                        "init_states_sha256": task.init_states_sha256,
                        "definition": scene.definition.as_json(),
                        "parts": parts.write(scene.model),
                    }
                )
                states = [simulation.state(split, index) for split in SPLITS for index in range(NUM_INIT_STATES)]
                archive.writestr(f"states/{task.index}.npz", _states_to_bytes(states))
                on_task(task.index + 1, len(source.tasks))
            document = {
                "format": FORMAT,
                "suite": suite,
                "versions": dict(source.versions),
                "assets": dict(source.assets),
                "tasks": tasks,
            }
            archive.writestr("suite.json", json.dumps(document), zipfile.ZIP_DEFLATED)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class LoadedTask:
    """What all environments of a task share."""

    shared: SharedModel
    definition: SceneDefinition
    states: list[SceneState]


class ArchiveSource:
    """A packed suite; see `sim.libero.source.TaskSource`."""

    def __init__(self, path: Path, suite: str) -> None:
        """Raises `EnvironmentRequestError` for a missing or damaged file, another suite or another MuJoCo."""
        self._path = path
        self._loaded: WeakValueDictionary[int, LoadedTask] = WeakValueDictionary()
        with self._opened() as archive:
            document = json.loads(archive.read("suite.json"))
            if document["format"] != FORMAT or document["suite"] != suite:
                raise EnvironmentRequestError(
                    f"{path} is format {document['format']} of {document['suite']}, not format {FORMAT} of {suite}; "
                    f"pack it again: vla libero pack suite={suite}"
                )
            self.versions: Mapping[str, str] = document["versions"]
            if mujoco.__version__ != self.versions["mujoco"]:
                raise EnvironmentRequestError(
                    f"{path} was packed with mujoco {self.versions['mujoco']}, but {mujoco.__version__} is installed: "
                    f"compiled scenes fit one version. Run: pip install --no-deps mujoco=={self.versions['mujoco']}"
                )
            self.assets: Mapping[str, Any] = document["assets"]
            self._entries = document["tasks"]
            self.tasks = tuple(
                LiberoTask(suite, index, entry["name"], entry["instruction"], entry["init_states_sha256"])
                for index, entry in enumerate(self._entries)
            )

    def open(self, task_id: int, stepping: SteppingMode) -> ArchivedSimulation:
        """Load a task's model and states, unless it is in use already.

        Raises `EnvironmentRequestError` when the archive is damaged.
        """
        task = self._loaded.get(task_id)
        if task is None:
            task = self._loaded[task_id] = self._load(task_id)
        scene = LiberoScene(task.shared, mujoco.MjData(task.shared.model), task.definition, stepping)
        return ArchivedSimulation(scene, task)

    def _load(self, task_id: int) -> LoadedTask:
        with self._opened() as archive:
            entry = self._entries[task_id]
            parts = _read_parts(archive, entry["parts"])
            content = put_together(parts)
            if zlib.crc32(content) != parts.crc32:  # part of a model is computed again here
                raise ValueError(f"the model of task {task_id} is not the one that was packed")
            model = mujoco.MjModel.from_binary_path("scene.mjb", {"scene.mjb": content})
            definition = SceneDefinition.from_json(entry["definition"])
            states = _states_from_bytes(archive.read(f"states/{task_id}.npz"))
        return LoadedTask(SharedModel(model, definition.fixture_bodies), definition, states)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                yield archive
        except EnvironmentRequestError:
            raise
        except Exception as error:  # zip, JSON, decompression, numpy and MuJoCo errors of many types
            raise EnvironmentRequestError(
                f"{self._path} cannot be read ({type(error).__name__}: {error}); it is damaged or incomplete. Copy or "
                "pack it again"
            ) from error


class ArchivedSimulation:
    """A task from an archive; see `sim.libero.source.TaskSimulation`."""

    def __init__(self, scene: LiberoScene, task: LoadedTask) -> None:
        self.scene, self._task = scene, task

    def start(self, split: Split, index: int) -> None:
        """See `TaskSimulation.start`."""
        states = self._task.states
        self.scene.restore(states[SPLITS.index(split) * (len(states) // len(SPLITS)) + index])


class PartsWriter:
    """Adds models to an archive, every part once."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive, self._present = archive, set[str]()

    def write(self, model: mujoco.MjModel) -> dict[str, Any]:
        """Add what the archive does not hold yet of a model; returns the names of its parts, in order."""
        parts = take_apart(model)
        return {
            "between": [self._compress("between", content) for content in parts.between],
            "meshes": [self._compress("meshes", mesh_to_bytes(mesh)) for mesh in parts.meshes],
            "corrections": {field: self._compress("between", change) for field, change in parts.corrections.items()},
            "pictures": [self._picture(picture) for picture in parts.pictures],
            "crc32": parts.crc32,
        }

    def _compress(self, folder: str, part: bytes) -> str:
        return self._add(f"{folder}/{hashlib.sha256(part).hexdigest()}", lambda: _compressed(part))

    def _picture(self, picture: Picture) -> str:
        height, width, _ = picture.shape  # those of one colour may differ in nothing else
        name = f"pictures/{height}x{width}-{hashlib.sha256(picture.tobytes()).hexdigest()}"
        return self._add(name, lambda: picture_to_bytes(picture))

    def _add(self, name: str, encode: Callable[[], bytes]) -> str:
        if name not in self._present:
            self._archive.writestr(name, encode())
            self._present.add(name)
        return name


def _read_parts(archive: zipfile.ZipFile, names: Mapping[str, Any]) -> ModelParts:
    encoded = {name: archive.read(name) for name in names["pictures"]}
    with ThreadPoolExecutor() as pool:  # OpenCV decodes without the interpreter's lock
        pictures = pool.map(picture_from_bytes, encoded.values())
        between = [_decompressed(archive.read(name)) for name in names["between"]]
        meshes = [mesh_from_bytes(_decompressed(archive.read(name))) for name in names["meshes"]]
        corrections = {field: _decompressed(archive.read(name)) for field, name in names["corrections"].items()}
        decoded = dict(zip(encoded, pictures, strict=True))
    return ModelParts(between, meshes, corrections, [decoded[name] for name in names["pictures"]], names["crc32"])


def _compressed(piece: bytes) -> bytes:
    codec = pyarrow.Codec(COMPRESSION, compression_level=LEVEL)
    return len(piece).to_bytes(4, "little") + cast(bytes, codec.compress(piece, asbytes=True))


def _decompressed(content: bytes) -> bytes:
    size = int.from_bytes(content[:4], "little")
    return cast(bytes, pyarrow.Codec(COMPRESSION).decompress(content[4:], decompressed_size=size, asbytes=True))


def _states_to_bytes(states: list[SceneState]) -> bytes:
    columns: dict[str, Any] = {
        "physics": [state.physics for state in states],
        "fixture_poses": [state.fixture_poses for state in states],
        "site_rgba": [state.site_rgba for state in states],
        "clock": [state.clock for state in states],
        **{f"arm_{name}": [getattr(state.arm, name) for state in states] for name in ArmMemory.__annotations__},
    }
    stream = BytesIO()
    planes = {name: _state_planes(np.array(values)) for name, values in columns.items()}
    np.savez_compressed(stream, allow_pickle=False, **planes)
    return stream.getvalue()


def _state_planes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """[states, ...] numbers as bytes [bytes of a number, ..., states], a fifth smaller when compressed."""
    last = np.ascontiguousarray(np.moveaxis(values, 0, -1))
    return np.moveaxis(last[..., np.newaxis].view(np.uint8), -1, 0)


def _from_state_planes(planes: NDArray[np.uint8]) -> NDArray[np.floating]:
    last = np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view(f"<f{len(planes)}")[..., 0]
    return np.ascontiguousarray(np.moveaxis(last, -1, 0))


def _states_from_bytes(content: bytes) -> list[SceneState]:
    with np.load(BytesIO(content), allow_pickle=False) as stored:
        columns = {name: _from_state_planes(stored[name]) for name in stored.files}
    return [
        SceneState(
            physics=columns["physics"][row],
            fixture_poses=columns["fixture_poses"][row],
            site_rgba=columns["site_rgba"][row],
            arm=ArmMemory(**{name: columns[f"arm_{name}"][row] for name in ArmMemory.__annotations__}),
            clock=(float(columns["clock"][row, 0]), bool(columns["clock"][row, 1])),
        )
        for row in range(len(columns["physics"]))
    ]
