"""Compares how this project and the `lerobot` package read one dataset; `check_lerobot.sh` runs both halves.

`dump` runs in this project's environment and writes every episode as its reader sees it. `compare` runs in lerobot's
own environment, reads the same dataset with `LeRobotDataset`, prints a JSON result and exits with status 1 on a
difference.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = {
    "states": "observation.state",
    "actions": "action",
    "rewards": "next.reward",
    "costs": "next.cost",
    "progress": "next.progress",
}
CAMERAS = {"images": "observation.images.image", "wrist_images": "observation.images.image2"}


def dump(dataset_folder: Path, output: Path) -> None:
    """Write `episode-<index>.npz` and `summary.json` as this project reads the dataset."""
    from vla.data.lerobot_reader import LeRobotDataset

    dataset = LeRobotDataset(dataset_folder)
    output.mkdir(parents=True, exist_ok=True)
    for index in range(dataset.num_episodes):
        episode = dataset.episode(index)
        arrays = {name: getattr(episode, name) for name in (*COLUMNS, *CAMERAS)}
        arrays |= {"instruction": np.array(episode.instruction), "success": np.array(episode.success)}
        np.savez(output / f"episode-{index:06d}.npz", allow_pickle=False, **arrays)
    stats = {name: {key: value.tolist() for key, value in feature.items()} for name, feature in dataset.stats.items()}
    summary = {"episodes": dataset.num_episodes, "frames": dataset.num_frames, "tasks": dataset.tasks, "stats": stats}
    (output / "summary.json").write_text(json.dumps(summary))


class VideoReader:
    """What lerobot needs of `torchvision.io.VideoReader`, over PyAV, as torchvision's own "pyav" backend is."""

    def __init__(self, path: str, stream: str) -> None:
        import av

        assert stream == "video"
        self.container = av.open(path)

    def seek(self, seconds: float, keyframes_only: bool = False) -> VideoReader:
        """Go to the key frame at or before `seconds`."""
        self.container.seek(int(seconds * 1_000_000), any_frame=not keyframes_only)
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


def compare(dataset_folder: Path, dumped: Path) -> dict[str, Any]:
    """Read the dataset with lerobot and return counts, the largest differences and the list of mismatches."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        stand_in_for_torchvision()
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    summary = json.loads((dumped / "summary.json").read_text())
    dataset = LeRobotDataset("local/dataset", root=dataset_folder, video_backend="pyav")
    totals = {"episodes": dataset.num_episodes, "frames": dataset.num_frames, "tasks": len(dataset.meta.tasks)}
    mismatches: list[str] = []
    expected = {"episodes": summary["episodes"], "frames": summary["frames"], "tasks": len(summary["tasks"])}
    for name, value in expected.items():
        if totals[name] != value:
            mismatches.append(f"{name}: lerobot {totals[name]}, here {value}")
    differences: dict[str, float] = {}
    for index in range(min(dataset.num_episodes, summary["episodes"])):
        _compare_episode(dataset, index, dumped, differences, mismatches)
    mismatches += _compare_statistics(dataset.meta.stats, summary["stats"])
    for key, difference in differences.items():
        if difference > (1.0 if key in CAMERAS.values() else 0.0):
            mismatches.append(f"{key}: differs by up to {difference}")
    packages = ("lerobot", "torch", "datasets", "av", "pyarrow")
    return {
        "equal": not mismatches,
        "mismatches": mismatches,
        **totals,
        "frames_compared": totals["frames"] * len(CAMERAS),
        "largest_difference": differences,
        "pixel_unit": "1 of 255",
        "statistics_compared": sum(len(feature) for feature in summary["stats"].values()),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def _compare_episode(
    dataset: Any, index: int, dumped: Path, differences: dict[str, float], mismatches: list[str]
) -> None:
    row = dataset.meta.episodes[index]
    first, last = row["dataset_from_index"], row["dataset_to_index"]
    with np.load(dumped / f"episode-{index:06d}.npz", allow_pickle=False) as ours:
        length = len(ours["actions"])
        if (last - first, row["length"]) != (length, length):
            mismatches.append(f"episode {index}: lerobot has frames {first}..{last}, here {length} frames")
            return
        arrays = {name: ours[name] for name in ours.files}
    for step in range(length):
        item = dataset[first + step]
        where = f"episode {index}, frame {step}"
        if (int(item["episode_index"]), int(item["frame_index"])) != (index, step):
            mismatches.append(f"{where}: lerobot finds episode {item['episode_index']}, frame {item['frame_index']}")
        if item["task"] != str(arrays["instruction"]):
            mismatches.append(f"{where}: task {item['task']!r} in lerobot, {arrays['instruction']} here")
        if bool(item["next.done"]) != (step == length - 1):
            mismatches.append(f"{where}: next.done is {bool(item['next.done'])}")
        for name, key in (COLUMNS | CAMERAS).items():
            theirs = item[key].numpy().astype(np.float64)
            if name in CAMERAS:
                theirs = np.rint(theirs.transpose(1, 2, 0) * 255)
            difference = float(np.abs(theirs.reshape(arrays[name][step].shape) - arrays[name][step]).max())
            differences[key] = max(differences.get(key, 0.0), difference)


def _compare_statistics(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    return [
        f"stats of {name}, {key}: lerobot {theirs.get(name, {}).get(key)}, here {value}"
        for name, feature in ours.items()
        for key, value in feature.items()
        if not np.array_equal(theirs.get(name, {}).get(key), value)
    ]


def main() -> int:
    """`dump <dataset> <folder>` or `compare <dataset> <folder> <commit>`."""
    mode, dataset, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if mode == "dump":
        dump(dataset, folder)
        return 0
    result = {"dataset": dataset.name, "commit": sys.argv[4]} | compare(dataset, folder)
    print(json.dumps(result, indent=2))
    return 0 if result["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
