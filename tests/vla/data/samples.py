"""Demonstrations made up for the tests of the dataset format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sim.embodiments import PANDA_EEF
from vla.data.episode import Episode
from vla.data.lerobot_writer import LeRobotWriter

SIZE = 32
ROBOT = PANDA_EEF.with_image_size(SIZE)


def make_episode(seed: int, length: int = 7, task_id: int = 0, success: bool = True) -> Episode:
    """Smooth pictures (4:2:0 colour keeps them), random numbers elsewhere."""
    generator = np.random.default_rng(seed)
    ramp = np.linspace(0, 120, SIZE)[:, None] + np.linspace(0, 60, SIZE)[None, :]
    shift = 8.0 * np.arange(length)[:, None, None] + seed
    frames = np.stack([ramp + shift, ramp[::-1] + shift, np.broadcast_to(ramp[:, ::-1], (length, SIZE, SIZE))], axis=-1)
    rewards = np.zeros(length, dtype=np.float32)
    rewards[-1] = success
    return Episode(
        suite="point",
        embodiment=ROBOT,
        task_id=task_id,
        instruction=f"fill gauge {task_id}",
        split="train",
        init_state_id=seed,
        seed=100 + seed,
        policy_id="expert",
        success=success,
        actions=generator.uniform(-1, 1, (length, 7)).astype(np.float32),
        observation_steps=np.arange(length),
        images={"image": frames.astype(np.uint8), "wrist_image": frames[:, ::-1].astype(np.uint8)},
        states=generator.normal(size=(length, 8)).astype(np.float32),
        rewards=rewards,
        costs=generator.uniform(0, 1, length).astype(np.float32),
        progress=np.linspace(0, 1, length).astype(np.float32),
    )


def sample_episodes() -> list[Episode]:
    """Five episodes of two tasks (numbers 3 and 8) and of different lengths; the last one fails."""
    tasks, lengths = (3, 8, 3, 8, 3), (7, 4, 1, 6, 5)
    episodes = [make_episode(seed, lengths[seed], tasks[seed]) for seed in range(4)]
    return [*episodes, make_episode(4, 5, 3, success=False)]


def write_dataset(folder: Path, episodes: list[Episode] | None = None) -> Path:
    """Write the sample episodes, or those given, with the robot of the first."""
    episodes = episodes or sample_episodes()
    writer = LeRobotWriter(folder, episodes[0].suite, episodes[0].embodiment)
    for episode in episodes:
        writer.add_episode(episode)
    return writer.finalize()


def as_rollout(episode: Episode) -> Episode:
    """The same episode as a rollout keeps it: frames at its decisions and at the end only."""
    kept = np.array([0, 4, episode.length])
    rows = np.minimum(kept, episode.length - 1)
    return replace(
        episode,
        observation_steps=kept,
        images={camera: frames[rows] for camera, frames in episode.images.items()},
        states=episode.states[rows],
    )


def join_videos(target: Path, sources: Sequence[Path], fps: int = 20) -> list[float]:
    """Copy the packets of several mp4 files into one, as LeRobot does; the second at which each of them begins."""
    starts, num_frames = [], 0
    with av.open(str(target), "w", format="mp4") as joined:
        stream = None
        for path in sources:
            starts.append(num_frames / fps)
            with av.open(str(path)) as source:
                stream = stream or joined.add_stream_from_template(source.streams.video[0])
                shift = Fraction(num_frames, fps)
                for packet in source.demux(source.streams.video[0]):
                    if packet.pts is None or packet.dts is None:  # the flush packet at the end
                        continue
                    packet.pts += int(shift / packet.time_base)
                    packet.dts += int(shift / packet.time_base)
                    packet.stream = stream
                    joined.mux(packet)
                    num_frames += 1
    return starts


def join_dataset_videos(folder: Path) -> Path:
    """Turn a written dataset into one with all episodes in one mp4 a camera, as other writers leave them."""
    table = folder / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(table).to_pylist()
    for camera in ("observation.images.image", "observation.images.image2"):
        place = folder / "videos" / camera / "chunk-000"
        sources = sorted(place.iterdir())
        starts = join_videos(place / "joined.mp4", sources)
        for path in sources:
            path.unlink()
        (place / "joined.mp4").rename(place / "file-000.mp4")
        for row, start in zip(rows, starts, strict=True):
            row[f"videos/{camera}/file_index"] = 0
            row[f"videos/{camera}/from_timestamp"] = start
            row[f"videos/{camera}/to_timestamp"] = start + row["length"] / 20
    pq.write_table(pa.Table.from_pylist(rows), table)
    return folder
