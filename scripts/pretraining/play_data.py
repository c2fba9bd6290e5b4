"""Scripted play turned into training samples, in shards on disk."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.pretraining.picture_coordinates import picture_coordinates
from scripts.pretraining.play import colour_jitter, sample_play
from sim.contract import FloatArray, Observation
from sim.tabletop.environment import TabletopEnvironment
from sim.tabletop.expert import TabletopExpert, straight_line
from sim.tabletop.goals import ButtonPressed, DrawerOpened, DrawerShut, InDrawer, PlacedOn, WorldState
from sim.tabletop.scene import COLOURS, DRAWER_HANDLE
from vla.errors import ReflexError
from vla.run.files import write_bytes

KINDS = (*(f"{colour} {shape}" for colour in COLOURS for shape in ("cube", "cylinder", "plate")), "drawer", "button")
"""Everything with a position worth localising, one slot each; a drawer is where its handle is."""
CHUNK = 8
EPISODES_PER_SHARD = 500
EXCURSIONS = 0.3
"""Share of the bursts of disturbance that go somewhere wrong, rather than shake."""
_FIELDS = (
    "images",
    "wrist_images",
    "states",
    "chunks",
    "positions",
    "pictured",
    "targets",
    "next_sample",
    "instruction_index",
)


@dataclass(frozen=True)
class PlaySamples:
    """N samples of play.

    `images`, `wrist_images` uint8 [N, 64, 64, 3]; `states` [N, 8]; `chunks` [N, 8, 7]; `positions` [N, kinds, 2] table
    coordinates (m, NaN where absent); `pictured` [N, 2, kinds, 2] where both pictures show them (x right, y down, in
    [-1, 1], NaN where out of the picture); `targets` [N, 6] what to approach now and where it must go (m, NaN where
    there is no such place); `next_sample` [N] the sample one chunk later in the same episode, or -1;
    `instruction_index` [N] into `instructions`.
    """

    images: NDArray[np.uint8]
    wrist_images: NDArray[np.uint8]
    states: NDArray[np.float32]
    chunks: NDArray[np.float32]
    positions: NDArray[np.float32]
    pictured: NDArray[np.float32]
    targets: NDArray[np.float32]
    next_sample: NDArray[np.int64]
    instruction_index: NDArray[np.int64]
    instructions: list[str]

    def __len__(self) -> int:
        return len(self.images)


def _localisation(environment: TabletopEnvironment, world: WorldState) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`positions`, `pictured` and `targets` of one sample."""
    positions = np.full((len(KINDS), 2), np.nan, dtype=np.float32)
    pictured = np.full((2, len(KINDS), 2), np.nan, dtype=np.float32)
    things = {**world.objects, **world.plates}
    if world.drawer_position is not None:
        things["drawer"] = world.drawer_position + DRAWER_HANDLE
    if world.button is not None:
        things["button"] = world.button
    kinds, points = [KINDS.index(name) for name in things], np.stack(list(things.values()))
    positions[kinds] = points[:, :2]
    pictured[:, kinds] = picture_coordinates(environment, points)
    targets = np.full(6, np.nan, dtype=np.float32)
    goals = environment.task.ordered_goals(world)
    goal = next((goal for goal in goals if not goal.holds(world)), goals[-1])
    if isinstance(goal, DrawerOpened | DrawerShut):
        targets[:3] = things["drawer"]
    elif isinstance(goal, ButtonPressed):
        targets[:3] = things["button"]
    else:
        targets[:3] = world.objects[goal.item]
        if isinstance(goal, PlacedOn):
            targets[3:] = world.plates[goal.target] if goal.target in world.plates else world.objects[goal.target]
        elif isinstance(goal, InDrawer):
            targets[3:] = world.drawer_position
    return positions, pictured, targets


class _EpisodeRecorder:
    """Plays one episode with bursts of disturbance, keeping samples whose whole chunk is undisturbed.

    Labels are then what the expert really did next, so they stay sharp, while the states visited include every kind of
    mistake a policy will make.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self.actions: list[FloatArray] = []
        self.clean: list[bool] = []
        self.kept: list[tuple[int, Observation, FloatArray, FloatArray, FloatArray]] = []
        self.burst_left = 0
        self.calm_left = int(generator.integers(0, 16))
        self.disturbance = np.zeros(7, dtype=np.float32)
        self.excursion: FloatArray | None = None
        self.noisy = generator.random() < 0.75

    def _disturb(self, action: FloatArray, world: WorldState) -> FloatArray | None:
        """The disturbed action, or None in a calm moment."""
        if not self.noisy:
            return None
        if self.burst_left == 0:
            if self.calm_left > 0:
                self.calm_left -= 1
                return None
            generator = self.generator
            self.calm_left = int(generator.integers(9, 22))
            self.excursion = self._excursion(world) if generator.random() < EXCURSIONS else None
            if self.excursion is not None:
                self.burst_left = int(generator.integers(6, 17))
                return self._towards_excursion(world)
            self.burst_left = int(generator.integers(2, 6))
            strength = generator.choice([0.3, 0.7, 1.0])
            self.disturbance = np.zeros(7, dtype=np.float32)
            self.disturbance[:3] = generator.normal(0.0, strength, 3)
            self.disturbance[3:6] = generator.normal(0.0, 0.08, 3) * (generator.random() < 0.4)
            if generator.random() < 0.12:
                self.disturbance[6] = -2.0 * action[6]
        if self.excursion is not None:
            return self._towards_excursion(world)
        self.burst_left -= 1
        jitter = self.generator.normal(0.0, 0.2, 7).astype(np.float32) * np.array([1, 1, 1, 0, 0, 0, 0], np.float32)
        return np.asarray(np.clip(action + self.disturbance + jitter, -1.0, 1.0), dtype=np.float32)

    def _excursion(self, world: WorldState) -> FloatArray:
        """A wrong place to go to and a gripper command [4]: what a policy does that mistook one thing for another."""
        generator = self.generator
        things = [*world.objects.values(), *world.plates.values()]
        if world.button is not None:
            things.append(world.button)
        point = np.array([generator.uniform(-0.15, 0.15), generator.uniform(-0.22, 0.22), 0.0])
        if things and generator.random() < 0.6:
            point = np.array(things[int(generator.integers(len(things)))])
            point[:2] += generator.normal(0.0, 0.015, 2)
        height = float(generator.choice([0.005, 0.02, 0.05, 0.1]))
        return np.array([point[0], point[1], height, generator.choice([-1.0, 1.0])], dtype=np.float32)

    def _towards_excursion(self, world: WorldState) -> FloatArray:
        assert self.excursion is not None
        self.burst_left -= 1
        action = np.zeros(7, dtype=np.float32)
        action[:3] = straight_line(world.gripper, self.excursion[:3].astype(np.float64))
        action[6] = self.excursion[3]
        return action

    def run(self, environment: TabletopEnvironment, expert: TabletopExpert) -> bool:
        """Play to the end; whether the task succeeded."""
        phase = int(self.generator.integers(2))
        while True:
            step = len(self.actions)
            action = expert.act(environment)
            world = environment.world_state()
            disturbed = self._disturb(action, world)
            if disturbed is None and step % 2 == phase:
                self.kept.append((step, environment.render_observation(), *_localisation(environment, world)))
            self.actions.append(action)
            self.clean.append(disturbed is None)
            outcome = environment.advance(action if disturbed is None else disturbed)
            if outcome.done:
                return outcome.success


def record_shard(path: Path, seed: int, episodes: int) -> int:
    """Play `episodes` episodes with this seed and write their samples to `path` (.npz). Returns the sample count."""
    generator = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {name: [] for name in _FIELDS}
    instructions: dict[str, int] = {}
    for number in range(episodes):
        play = sample_play(generator)
        environment = TabletopEnvironment(task=play.task)
        environment.reset_to_layout(play.layout)
        environment.model.geom_rgba[:] = colour_jitter(generator, environment.model.geom_rgba)
        expert = TabletopExpert(seed * 100_003 + number)
        expert.reset(environment)
        recorder = _EpisodeRecorder(generator)
        if recorder.run(environment, expert):
            _append_samples(columns, recorder, instructions.setdefault(play.task.instruction, len(instructions)))
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    arrays["instructions"] = np.asarray(list(instructions))
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_bytes(path, content.getvalue())
    return len(arrays["images"])


def _append_samples(columns: dict[str, list[Any]], recorder: _EpisodeRecorder, instruction: int) -> None:
    actions, clean = np.stack(recorder.actions), np.asarray(recorder.clean)
    length = len(actions)
    usable = [entry for entry in recorder.kept if clean[entry[0] : entry[0] + CHUNK].all()]
    base = len(columns["images"])
    rows = {entry[0]: base + offset for offset, entry in enumerate(usable)}
    for step, observation, positions, pictured, targets in usable:
        columns["images"].append(observation["images"]["image"])
        columns["wrist_images"].append(observation["images"]["wrist_image"])
        columns["states"].append(observation["state"])
        columns["chunks"].append(actions[np.minimum(np.arange(step, step + CHUNK), length - 1)])
        columns["positions"].append(positions)
        columns["pictured"].append(pictured)
        columns["targets"].append(targets)
        columns["next_sample"].append(rows.get(step + CHUNK, -1))
        columns["instruction_index"].append(instruction)


def _record(arguments: tuple[Path, int, int]) -> int:
    return record_shard(*arguments)


def generate_play(
    folder: Path, episodes: int, seed: int, num_workers: int, on_shard: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write (or complete) the shards of a play set; `on_shard(done, total)`. Returns their paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    count = -(-episodes // EPISODES_PER_SHARD)
    paths = [folder / f"play-{seed}-{number:04d}.npz" for number in range(count)]
    missing = [
        (path, seed * 1_000_003 + number, EPISODES_PER_SHARD) for number, path in enumerate(paths) if not path.exists()
    ]
    done = count - len(missing)
    if missing:
        with multiprocessing.get_context("spawn").Pool(max(1, num_workers)) as pool:
            for _ in pool.imap_unordered(_record, missing):
                done += 1
                if on_shard is not None:
                    on_shard(done, count)
    return paths


def load_play(paths: list[Path]) -> PlaySamples:
    """Read shards into memory (24 kB a sample). Raises `ReflexError` naming a damaged shard."""
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in _FIELDS}
    instructions: list[str] = []
    offset = 0
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as shard:
                part = {name: shard[name] for name in _FIELDS}
                words = shard["instructions"].tolist()
        except Exception as error:  # numpy and zipfile raise many types for a damaged file
            raise ReflexError(
                f"{path}: not a readable play shard ({error}); delete it and run the command again"
            ) from error
        part["next_sample"] = np.where(part["next_sample"] >= 0, part["next_sample"] + offset, -1)
        part["instruction_index"] = part["instruction_index"] + len(instructions)
        offset += len(part["images"])
        instructions += words
        for name, values in part.items():
            columns[name].append(values)
    return PlaySamples(**{name: np.concatenate(values) for name, values in columns.items()}, instructions=instructions)
