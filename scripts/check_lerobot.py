"""Compares how this project and the `lerobot` package read one dataset; `check_lerobot.sh` runs every part.

`record` runs in lerobot's own environment and writes small datasets in the shapes of four robots with it. `dump` runs
in this project's environment and writes every episode as its reader sees it; `rewrite` writes a dataset again with this
project's writer. `compare` runs in lerobot's environment, reads the same dataset with `LeRobotDataset`, prints a JSON
result and exits with status 1 on a difference. `collect` joins results.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = {
    "rewards": "next.reward",
    "costs": "next.cost",
    "progress": "next.progress",
    "interventions": "intervention",
}
PIXEL_TOLERANCE = 1.0
"""Of 255: what two builds of a decoder may round otherwise."""


def dump(dataset_folder: Path, output: Path) -> None:
    """Write `episode-<index>.npz` (arrays by feature) and `summary.json` as this project reads the dataset."""
    from vla.data.lerobot_files import read_parquet
    from vla.data.lerobot_reader import LeRobotDataset

    dataset = LeRobotDataset(dataset_folder)
    features = dataset.features
    relabelled = [name for name in dataset.info.features if name.startswith("next.reward.")]
    output.mkdir(parents=True, exist_ok=True)
    for index in range(dataset.num_episodes):
        episode = dataset.episode(index)
        arrays: dict[str, Any] = {features.action: episode.actions}
        if features.state is not None:
            arrays[features.state] = episode.states
        arrays |= {camera.key: episode.images[name] for name, camera in features.cameras.items()}
        arrays |= {key: getattr(episode, name) for name, key in COLUMNS.items() if key in dataset.info.features}
        for name in relabelled:
            parts = [read_parquet(path, [name], dataset.episode_numbers[index])[name] for path in dataset.data_files]
            arrays[name] = np.concatenate([part.to_numpy() for part in parts])
        arrays["task"] = np.array(episode.instructions_at(np.arange(episode.length)))
        np.savez(output / f"episode-{index:06d}.npz", allow_pickle=False, **arrays)
    stats = {name: {key: value.tolist() for key, value in feature.items()} for name, feature in dataset.stats.items()}
    summary = {"episodes": dataset.num_episodes, "frames": dataset.num_frames, "tasks": dataset.tasks, "stats": stats}
    summary |= {"embodiment": dataset.embodiment.describe(), "cameras": [c.key for c in features.cameras.values()]}
    (output / "summary.json").write_text(json.dumps(summary))


def rewrite(dataset_folder: Path, output: Path) -> None:
    """Read a dataset and write it again, with this project's reader and writer."""
    from vla.data.lerobot_reader import LeRobotDataset
    from vla.data.lerobot_writer import LeRobotWriter

    dataset = LeRobotDataset(dataset_folder)
    writer = LeRobotWriter(output, "check", dataset.embodiment)
    for index in range(dataset.num_episodes):
        writer.add_episode(dataclasses.replace(dataset.episode(index), suite="check"))
    writer.finalize()


class VideoReader:
    """What lerobot needs of `torchvision.io.VideoReader`, over PyAV, as torchvision's own "pyav" backend is."""

    def __init__(self, path: str, stream: str) -> None:
        import av

        assert stream == "video"
        self.container = av.open(path)

    def seek(self, seconds: float, keyframes_only: bool = False) -> VideoReader:
        """Go to a key frame well before `seconds`.

        Where torchvision goes, to the nearest one, decoding begins too late for every second picture of hevc as lerobot
        encodes it: pictures that are shown before a key frame are stored after it.
        """
        self.container.seek(max(0, int((seconds - 0.5) * 1_000_000)), any_frame=not keyframes_only)
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import torch

        for frame in self.container.decode(video=0):
            yield {"data": torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1), "pts": frame.time}


def stand_in_for_torchvision() -> None:
    """Give lerobot's dataset module the few names of torchvision it uses, which has no build for every torch."""
    import datasets  # noqa: F401  # first, because it looks for a real torchvision when it is imported

    class ToTensor:
        def __call__(self, picture: Any) -> Any:
            import torch

            return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255.0

    names = ("torchvision", "torchvision.transforms", "torchvision.io")
    root, transforms, io = (types.ModuleType(name) for name in names)
    transforms.ToTensor = ToTensor  # type: ignore[attr-defined]  # a module made here
    io.VideoReader = VideoReader  # type: ignore[attr-defined]
    root.transforms, root.io = transforms, io  # type: ignore[attr-defined]
    root.set_video_backend = lambda name: None  # type: ignore[attr-defined]
    sys.modules.update(zip(names, (root, transforms, io), strict=True))


def lerobot_dataset() -> Any:
    """lerobot's class, with torchvision or a stand-in for it."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        stand_in_for_torchvision()
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset


@dataclass(frozen=True)
class Robot:
    """A dataset for lerobot to record."""

    robot_type: str
    fps: int
    cameras: dict[str, tuple[int, int]]
    """Feature -> height and width."""
    state: Any
    """Names as robots of this kind have them."""
    action: Any
    size: int
    codec: str
    """One of lerobot's, or "png" for pictures in the data files."""
    lengths: tuple[int, ...]


SO101_JOINTS = [f"{joint}.pos" for joint in ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")]
ALOHA_JOINTS = [f"{side}_{joint}" for side in ("left", "right") for joint in range(7)]
ROBOTS = {
    "so101": Robot(
        "so101_follower",
        30,
        {"observation.images.front": (480, 640), "observation.images.wrist": (480, 640)},
        [*SO101_JOINTS, "gripper.pos"],
        [*SO101_JOINTS, "gripper.pos"],
        6,
        "libsvtav1",
        (14, 9, 12),
    ),
    "aloha": Robot(
        "aloha",
        50,
        {f"observation.images.cam_{place}": (480, 640) for place in ("high", "low", "left_wrist", "right_wrist")},
        {"motors": ALOHA_JOINTS},
        {"motors": ALOHA_JOINTS},
        14,
        "h264",
        (8, 11),
    ),
    "pusht": Robot(
        "2d pointer", 10, {"observation.image": (96, 96)}, {"axes": ["x", "y"]}, None, 2, "png", (20, 16, 25)
    ),
    "droid": Robot(
        "franka",
        15,
        {f"observation.images.{name}": (180, 320) for name in ("exterior_1_left", "exterior_2_left", "wrist_left")},
        {"axes": [*(f"joint_{index}" for index in range(7)), "gripper"]},
        {"axes": [*(f"joint_{index}" for index in range(7)), "gripper"]},
        8,
        "hevc",
        (13, 7, 10),
    ),
}
TASKS = ("put the cube in the box", "take the cube out of the box")


def record(output: Path) -> None:
    """Write the datasets of `ROBOTS` with lerobot, and of the first one a copy without its second episode."""
    dataset_class = lerobot_dataset()
    for name, robot in ROBOTS.items():
        dataset = _record_one(dataset_class, output / name, robot)
        dataset.finalize()
    from lerobot.datasets.dataset_tools import delete_episodes

    source = dataset_class("local/so101", root=output / "so101", video_backend="pyav")
    delete_episodes(source, [1], output_dir=output / "so101_without_one", repo_id="local/so101_without_one")


def _record_one(dataset_class: Any, folder: Path, robot: Robot) -> Any:
    kind = "image" if robot.codec == "png" else "video"
    features: dict[str, Any] = {
        key: {"dtype": kind, "shape": (*size, 3), "names": ["height", "width", "channels"]}
        for key, size in robot.cameras.items()
    }
    for key, names in (("observation.state", robot.state), ("action", robot.action)):
        features[key] = {"dtype": "float32", "shape": (robot.size,), "names": names}
    dataset = dataset_class.create(
        f"local/{folder.name}",
        robot.fps,
        features,
        root=folder,
        robot_type=robot.robot_type,
        use_videos=kind == "video",
        vcodec="h264" if kind == "image" else robot.codec,
        video_backend="pyav",
    )
    generator = np.random.default_rng(0)
    for episode, length in enumerate(robot.lengths):
        for step in range(length):
            frame: dict[str, Any] = {
                key: picture(episode, step, camera, *size) for camera, (key, size) in enumerate(robot.cameras.items())
            }
            for key in ("observation.state", "action"):
                frame[key] = generator.uniform(-90, 90, robot.size).astype(np.float32)
            # The first episode has two tasks.
            frame["task"] = TASKS[(episode + int(episode == 0 and step >= length // 2)) % 2]
            dataset.add_frame(frame)
        dataset.save_episode()
    return dataset


def picture(episode: int, step: int, camera: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A smooth texture that moves, another one in every episode and camera."""
    generator = np.random.default_rng([episode, camera])
    rows, columns = np.mgrid[0:height, 0:width] / 48.0
    phases = generator.uniform(0, 6, (3, 2))
    waves = [np.sin(rows + phase[0] + 0.3 * step) * np.cos(columns + phase[1]) for phase in phases]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def compare(dataset_folder: Path, dumped: Path) -> dict[str, Any]:
    """Read the dataset with lerobot and return counts, the largest differences and the list of mismatches."""
    summary = json.loads((dumped / "summary.json").read_text())
    cameras = summary["cameras"]
    dataset = lerobot_dataset()("local/dataset", root=dataset_folder, video_backend="pyav")
    totals = {"episodes": dataset.num_episodes, "frames": dataset.num_frames, "tasks": len(dataset.meta.tasks)}
    mismatches: list[str] = []
    expected = {"episodes": summary["episodes"], "frames": summary["frames"], "tasks": len(summary["tasks"])}
    for name, value in expected.items():
        if totals[name] != value:
            mismatches.append(f"{name}: lerobot {totals[name]}, here {value}")
    if sorted(cameras) != sorted(dataset.meta.camera_keys):
        mismatches.append(f"cameras: lerobot {dataset.meta.camera_keys}, here {cameras}")
    differences: dict[str, float] = {}
    for index in range(min(dataset.num_episodes, summary["episodes"])):
        _compare_episode(dataset, index, dumped, cameras, differences, mismatches)
    mismatches += _compare_statistics(dataset.meta.stats, summary["stats"])
    for key, difference in differences.items():
        if difference > (PIXEL_TOLERANCE if key in cameras else 0.0):
            mismatches.append(f"{key}: differs by up to {difference}")
    packages = ("lerobot", "torch", "datasets", "av", "pyarrow")
    return {
        "equal": not mismatches,
        "mismatches": mismatches,
        "embodiment": summary["embodiment"],
        **totals,
        "frames_compared": totals["frames"] * len(cameras),
        "largest_difference": differences,
        "pixel_unit": "1 of 255",
        "codec": sorted({str(_codec(dataset.meta.features[key])) for key in cameras}),
        "statistics_compared": sum(len(feature) for feature in summary["stats"].values()),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def _codec(feature: dict[str, Any]) -> str:
    return str((feature.get("info") or {}).get("video.codec", "")) if feature["dtype"] == "video" else "pictures"


def _compare_episode(
    dataset: Any,
    index: int,
    dumped: Path,
    cameras: list[str],
    differences: dict[str, float],
    mismatches: list[str],
) -> None:
    row = dataset.meta.episodes[index]
    first, last = row["dataset_from_index"], row["dataset_to_index"]
    with np.load(dumped / f"episode-{index:06d}.npz", allow_pickle=False) as ours:
        arrays = {name: ours[name] for name in ours.files}
    tasks = arrays.pop("task")
    length = len(tasks)
    if (last - first, row["length"]) != (length, length):
        mismatches.append(f"episode {index}: lerobot has frames {first}..{last}, here {length} frames")
        return
    for step in range(length):
        item = dataset[first + step]
        where = f"episode {index}, frame {step}"
        if (int(item["episode_index"]), int(item["frame_index"])) != (index, step):
            mismatches.append(f"{where}: lerobot finds episode {item['episode_index']}, frame {item['frame_index']}")
        if item["task"] != str(tasks[step]):
            mismatches.append(f"{where}: task {item['task']!r} in lerobot, {tasks[step]} here")
        if "next.done" in item and bool(item["next.done"]) != (step == length - 1):
            mismatches.append(f"{where}: next.done is {bool(item['next.done'])}")
        for key, values in arrays.items():
            theirs = item[key].numpy().astype(np.float64)
            if key in cameras:
                theirs = np.rint(theirs.transpose(1, 2, 0) * 255)
            difference = float(np.abs(theirs.reshape(values[step].shape) - values[step]).max())
            differences[key] = max(differences.get(key, 0.0), difference)


def _compare_statistics(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    return [
        f"stats of {name}, {key}: lerobot {theirs.get(name, {}).get(key)}, here {value}"
        for name, feature in ours.items()
        for key, value in feature.items()
        if not np.array_equal(theirs.get(name, {}).get(key), value)
    ]


def collect(parts: Path, commit: str) -> dict[str, Any]:
    """Join the results in a folder, one file a dataset, into one."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(parts.glob("*.json"))}
    return {"commit": commit, "equal": all(result["equal"] for result in results.values()), "datasets": results}


def main() -> int:
    """Do one of the parts.

    `record <folder>`, `dump <dataset> <folder>`, `rewrite <dataset> <folder>`, `compare <dataset> <folder> <commit>`,
    `collect <folder> <commit>`.
    """
    mode, first = sys.argv[1], Path(sys.argv[2])
    if mode == "record":
        record(first)
        return 0
    if mode in ("dump", "rewrite"):
        (dump if mode == "dump" else rewrite)(first, Path(sys.argv[3]))
        return 0
    if mode == "collect":
        result = collect(first, sys.argv[3])
    else:
        result = {"dataset": first.name, "commit": sys.argv[4]} | compare(first, Path(sys.argv[3]))
    print(json.dumps(result, indent=2))
    return 0 if result["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
