"""Fine-tunes both kinds of decisions on datasets of several robots, and lets the saved policies act. Prints JSON.

    python -m scripts.fine_tune_robots FOLDER [--steps 40] > docs/results/robots_fine_tuning.json

FOLDER holds LeRobot datasets, such as those that `scripts/check_lerobot.py record FOLDER` makes with lerobot itself.
What is asked of each: fine-tuning lowers the loss, and the policy that was saved answers an observation with the
dataset's own names by a chunk of the dataset's shape, near the actions of the dataset.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import vla
from vla.data.lerobot_dataset import LeRobotDataset
from vla.run.run_folder import RunFolder

DECISIONS = ("tokens", "flow")


def fine_tuned(dataset: Path, decision: str, steps: int, output: Path) -> dict[str, Any]:
    """Fine-tune the shipped policy on a dataset; what its saved policy then says to the dataset's first frame."""
    vla.fine_tune(
        dataset=dataset, policy="reflex-tiny", embodiment="dataset", decision=decision, steps=steps, batch_size=16,
        warmup_steps=5, log_every=1, augmentation={"shift_pixels": 0}, threads=1, output=output,
    )  # fmt: skip
    losses = [line["train/loss"] for line in RunFolder(output, resume=True).read_metrics() if "train/loss" in line]
    episode = LeRobotDataset(dataset).episode(0)
    observation = {
        **{f"observation.images.{camera}": frames[0] for camera, frames in episode.images.items()},
        "observation.state": episode.states[0],
        "task": episode.instruction,
    }
    chunk = vla.load_policy(output).select_action(observation)
    spread = episode.actions.std(axis=0) + 1e-6
    error = np.abs(chunk[: episode.length] - episode.actions[: len(chunk)]) / spread
    return {
        "loss_first": round(float(np.mean(losses[:5])), 4),
        "loss_last": round(float(np.mean(losses[-5:])), 4),
        "chunk": list(chunk.shape),
        "error_in_deviations": round(float(error.mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    results: dict[str, Any] = {"commit": commit.stdout.strip(), "steps": arguments.steps, "datasets": {}}
    for dataset in sorted(path for path in arguments.folder.iterdir() if (path / "meta" / "info.json").is_file()):
        with tempfile.TemporaryDirectory() as folder:
            results["datasets"][dataset.name] = {
                "embodiment": LeRobotDataset(dataset).embodiment.describe(),
                **{kind: fine_tuned(dataset, kind, arguments.steps, Path(folder) / kind) for kind in DECISIONS},
            }
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
