"""`python -m scripts.bench.frames [--episodes N] [--json FILE]`: reading a dataset of two cameras at 256 px for 64 px.

The dataset has as many frames as `lerobot/libero`, encoded as LeRobot encodes h264. Twenty episodes of video are listed
again and again: every one of the N is decoded. The memory of the process is counted in its own pages and in pages of
the file of frames, which the system gives up when others need room; run it in a control group to see it do so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scripts.bench.timing import describe_machine
from sim.embodiments import PANDA_EEF
from vla.data import lerobot_keys as keys
from vla.data.episode import Episode
from vla.data.lerobot_reader import read_demonstrations
from vla.data.lerobot_writer import LeRobotWriter

EPISODES = 1709
"""Of 160 frames: 273,440, as `lerobot/libero` has 273,465."""
LENGTH = 160
RECORDED = 20
SIZE, REDUCED = 256, 64
BATCH = 32


def moving_texture(seed: int) -> NDArray[np.uint8]:
    """Pictures [T, 256, 256, 3] of a block that crosses a soft background."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    frames = np.empty((LENGTH, SIZE, SIZE, 3), np.uint8)
    frames[:] = cv2.GaussianBlur(noise, (0, 0), 3)
    for step, frame in enumerate(frames):
        frame[60 + step // 2 : 100 + step // 2, step : step + 40] = (200, 30, 40)
    return frames


def encode_as_lerobot(path: Path, frames: NDArray[np.uint8]) -> None:
    """Replace an mp4 by one with LeRobot's settings for h264."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=20, options={"g": "2", "crf": "30"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_dataset(folder: Path, episodes: int) -> None:
    """The recorded episodes, listed until there are as many as wanted."""
    embodiment = PANDA_EEF.with_image_size(SIZE)
    writer = LeRobotWriter(folder, "frames", embodiment)
    zeros, numbers = np.zeros(LENGTH, np.float32), np.random.default_rng(0)
    for seed in range(RECORDED):
        frames = moving_texture(seed)
        writer.add_episode(
            Episode(
                suite="frames",
                embodiment=embodiment,
                task_id=0,
                instruction="cross the table",
                split="train",
                init_state_id=seed,
                seed=seed,
                policy_id="none",
                success=True,
                actions=numbers.uniform(-1, 1, (LENGTH, 7)).astype(np.float32),
                observation_steps=np.arange(LENGTH),
                images={"image": frames, "wrist_image": frames[:, ::-1]},
                states=numbers.normal(size=(LENGTH, 8)).astype(np.float32),
                rewards=zeros,
                costs=zeros,
                progress=zeros,
            )
        )
    writer.finalize()
    for key, turned in ((keys.CAMERA_PREFIX + "image", False), (keys.CAMERA_PREFIX + "image2", True)):
        for seed in range(RECORDED):
            frames = moving_texture(seed)
            place = keys.VIDEO_PATH.format(video_key=key, **keys.file_place(seed))
            encode_as_lerobot(folder / place, frames[:, ::-1] if turned else frames)
    (folder / keys.PROVENANCE_PATH).unlink()  # checksums of other videos
    _list_again(folder, episodes)


def _list_again(folder: Path, episodes: int) -> None:
    table_path = folder / keys.EPISODES_PATH.format(**keys.file_place(0))
    data_path = folder / keys.DATA_PATH.format(**keys.file_place(0))
    table, data = pq.read_table(table_path), pq.read_table(data_path)
    number = np.arange(episodes)
    listed = table.take(number % RECORDED)
    listed = listed.set_column(listed.column_names.index(keys.EPISODE_INDEX), keys.EPISODE_INDEX, pa.array(number))
    rows = (LENGTH * (number % RECORDED)[:, None] + np.arange(LENGTH)).ravel()
    frames = data.take(rows)
    column = frames.column_names.index(keys.EPISODE_INDEX)
    frames = frames.set_column(column, keys.EPISODE_INDEX, pa.array(np.repeat(number, LENGTH)))
    pq.write_table(listed, table_path)
    pq.write_table(frames, data_path)
    info = json.loads((folder / keys.INFO_PATH).read_text())
    info |= {"total_episodes": episodes, "total_frames": episodes * LENGTH}
    (folder / keys.INFO_PATH).write_text(json.dumps(info))


def memory() -> dict[str, int]:
    """Bytes of this process's own pages, and of pages of files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: 1024 * int(lines[key].split()[0]) for name, key in (("own", "RssAnon"), ("files", "RssFile"))}


def measure(folder: Path) -> dict[str, Any]:
    """Read everything, then draw minibatches at random."""
    before, wall, processor = memory(), time.perf_counter(), time.process_time()
    episodes = read_demonstrations(folder, image_size=REDUCED)
    frames = sum(episode.length for episode in episodes)
    result: dict[str, Any] = {
        "frames": frames,
        "bytes_of_frames": frames * episodes[0].embodiment.frame_bytes,
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "memory_before": before,
        "memory_after": memory(),
    }
    generator, count, wall = np.random.default_rng(0), 0, time.perf_counter()
    while time.perf_counter() - wall < 30:
        for number, row in zip(
            generator.integers(0, len(episodes), BATCH), generator.integers(0, LENGTH, BATCH), strict=True
        ):
            for pictures in episodes[number].images.values():
                pictures[row].sum()
        count += 1
    result["milliseconds_for_a_batch_of_32"] = 1000 * (time.perf_counter() - wall) / count
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of 160 frames")
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        write_dataset(folder / "frames", arguments.episodes)
        result = {"machine": describe_machine(), "load": os.getloadavg()[0]} | measure(folder / "frames")
    finally:
        shutil.rmtree(folder)
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
