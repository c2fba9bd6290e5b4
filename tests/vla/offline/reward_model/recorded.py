"""A small dataset whose pictures show how far each episode has come, and labels of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sim.embodiments import PANDA_EEF
from tests.vla.data.samples import write_dataset
from vla.data.episode import Episode
from vla.data.lerobot_dataset import LeRobotDataset
from vla.offline.labels.files import LABELS, SETTINGS, Label
from vla.offline.preferences import Answer, Moment, Pair, Preference, Status
from vla.run.files import write_json
from vla.run.jsonl import write_lines

SIZE = 48
ROBOT = PANDA_EEF.with_image_size(SIZE)
GOAL = "fill the bar"


def bar_episode(seed: int, length: int = 12, task: int = 0) -> Episode:
    """A white bar grows, in every other episode to the end; the scene's colour is the episode's own."""
    generator = np.random.default_rng(seed)
    success = seed % 2 == 0
    progress = np.linspace(0, 1.0 if success else generator.uniform(0.2, 0.6), length + 1)
    frames = np.empty((length, SIZE, SIZE, 3), np.uint8)
    frames[:] = generator.integers(20, 110, 3)
    for frame, place in zip(frames, progress, strict=False):
        frame[: 4 + int(40 * place), 16:32] = 250
    states = generator.normal(size=(length, 8)).astype(np.float32)
    states[:, 0] = progress[:-1]
    rewards = np.zeros(length, np.float32)
    rewards[-1] = success
    return Episode(
        suite="bars",
        embodiment=ROBOT,
        task_id=task,
        instruction=GOAL if task == 0 else f"{GOAL} {task}",
        split="train",
        init_state_id=seed,
        seed=seed,
        policy_id="mixed",
        success=success,
        actions=generator.uniform(-1, 1, (length, 7)).astype(np.float32),
        observation_steps=np.arange(length),
        images={"image": frames, "wrist_image": frames[:, ::-1]},
        states=states,
        rewards=rewards,
        costs=np.zeros(length, np.float32),
        progress=progress[1:].astype(np.float32),
    )


def write_bars(folder: Path, episodes: int = 12, tasks: int = 1) -> LeRobotDataset:
    """The dataset; episodes take turns among the tasks."""
    return LeRobotDataset(write_dataset(folder, [bar_episode(seed, task=seed % tasks) for seed in range(episodes)]))


def write_labels(folder: Path, dataset: LeRobotDataset, pairs: int = 150, seed: int = 0) -> Path:
    """True answers to uniform pairs, a few questions that came to nothing, as `vla label` leaves them."""
    generator = np.random.default_rng(seed)
    progress = [dataset.episode(index, cameras=()).states[:, 0] for index in range(dataset.num_episodes)]
    labels = []
    for number in range(pairs):
        chosen = [(generator.integers(len(progress)), generator.integers(len(progress[0]))) for _ in range(2)]
        first, second = (progress[episode][frame] for episode, frame in chosen)
        before, after = (Moment(dataset.episode_numbers[episode], int(frame)) for episode, frame in chosen)
        answer = Answer.TIE if first == second else Answer.SECOND if second > first else Answer.FIRST
        status = Status.REFUSED if number % 50 == 49 else Status.OK
        said = Preference(Pair(before, after, GOAL), status, None if status is Status.REFUSED else answer)
        labels.append(Label(said, "uniform"))
    write_lines(folder / LABELS, [label.row() for label in labels])
    settings = {"dataset": str(dataset.root), "prompt_version": "oracle", "model_identity": "oracle"}
    write_json(folder / SETTINGS, settings)
    return folder
