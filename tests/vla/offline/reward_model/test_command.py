"""`vla reward`: from labels and a dataset to a folder that scores."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.vla.offline.reward_model.recorded import GOAL, write_bars, write_labels
from vla.data.content_hash import observations_hash
from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError
from vla.offline.labels.files import LABELS
from vla.offline.reward_model.command import RewardConfig, fit_reward
from vla.offline.reward_model.fit import FitSettings
from vla.offline.reward_model.rows import features_of, look_at
from vla.rewards.models.model import WEIGHTS_FILE, FittedReward, load_reward_model, model_hash, score_episode
from vla.run.files import read_json_object

QUICK = FitSettings(hidden=32, max_epochs=40, learning_rate=3e-3)


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return write_bars(tmp_path_factory.mktemp("bars") / "dataset")


@pytest.fixture(scope="module")
def labels(bars: LeRobotDataset) -> Path:
    return write_labels(bars.root.with_name("labels"), bars)


def run(bars: LeRobotDataset, labels: Path, output: Path, **changes: object) -> Path:
    settings: dict[str, object] = {"encoder": "pixels", "fit": QUICK, "device": "cpu", "threads": 1, **changes}
    fit_reward(RewardConfig(str(bars.root), labels=str(labels), output=str(output), **settings))  # type: ignore[arg-type]
    return output


@pytest.mark.parametrize(
    ("encoder", "fit"),
    [
        ("pixels", QUICK),
        ("state", QUICK),
        ("", FitSettings(network="cnn", members=2, max_epochs=10, learning_rate=2e-3)),
    ],
)
def test_it_orders_moments_by_progress(
    bars: LeRobotDataset, labels: Path, tmp_path: Path, encoder: str, fit: FitSettings
) -> None:
    model = load_reward_model(run(bars, labels, tmp_path / "reward", encoder=encoder, fit=fit), "cpu")
    assert isinstance(model, FittedReward)
    episode = bars.episode(0)
    scores = model.score(np.asarray(episode.images["image"]), episode.instruction, episode.states)
    assert scores.dtype == np.float32
    assert scores.shape == (episode.length,)
    assert spearmanr(scores, episode.states[:, 0]).statistic > 0.9
    assert np.allclose(scores, score_episode(model, episode), atol=1e-6)
    members = model.member_scores(episode)
    assert members.shape == (fit.members, episode.length)
    assert np.allclose(members.mean(axis=0), scores, atol=1e-5)


def test_the_folder_says_what_it_was_fitted_to(bars: LeRobotDataset, labels: Path, tmp_path: Path) -> None:
    content = read_json_object(run(bars, labels, tmp_path / "reward") / "reward_model.json")
    assert content["goals"] == [GOAL]
    assert content["labels"]["prompt_version"] == "oracle"
    assert content["labels"]["statuses"]["refused"] == 3
    assert sum(content["labels"]["statuses"].values()) == 150
    assert content["record"]["pairs_fitted"] + content["record"]["pairs_held_out"] == 147
    assert content["record"]["held_out_accuracy"] > 0.8
    assert content["record"]["settings"]["seed"] == 0


def test_equal_settings_make_equal_models_and_others_do_not(bars: LeRobotDataset, labels: Path, tmp_path: Path) -> None:
    hashes = [model_hash(run(bars, labels, tmp_path / str(number), seed=seed)) for number, seed in enumerate((0, 0, 1))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_features_are_computed_once(bars: LeRobotDataset, tmp_path: Path) -> None:
    dataset = LeRobotDataset(shutil.copytree(bars.root, tmp_path / "dataset"))
    look = look_at(dataset, "pixels", None)
    reads: list[int] = []

    def features() -> np.ndarray:
        return features_of(dataset, look, lambda done, total: reads.append(done))

    first = features()
    assert len(reads) == dataset.num_episodes
    assert np.array_equal(features(), first)
    assert len(reads) == dataset.num_episodes
    (cached,) = (tmp_path / "dataset.features").iterdir()
    cached.write_bytes(b"torn")  # what is damaged is computed again
    assert np.array_equal(features(), first)
    assert len(reads) == 2 * dataset.num_episodes


def test_other_pictures_have_other_features(bars: LeRobotDataset, tmp_path: Path) -> None:
    dataset = LeRobotDataset(shutil.copytree(bars.root, tmp_path / "dataset"))
    before = observations_hash(dataset)
    videos = sorted((dataset.root / "videos").rglob("*.mp4"))
    shutil.copyfile(videos[1], videos[0])
    assert observations_hash(dataset) != before


def test_a_model_whose_weights_are_gone_or_damaged_says_so(bars: LeRobotDataset, labels: Path, tmp_path: Path) -> None:
    folder = run(bars, labels, tmp_path / "reward")
    (folder / WEIGHTS_FILE).write_bytes(b"0")
    with pytest.raises(ReflexError, match="is damaged"):
        load_reward_model(folder)
    with pytest.raises(ReflexError, match="holds no reward model"):
        load_reward_model(tmp_path)


def test_labels_that_do_not_fit_are_refused(bars: LeRobotDataset, labels: Path, tmp_path: Path) -> None:
    run(bars, labels, tmp_path / "reward")
    with pytest.raises(ReflexError, match="already holds a reward model"):
        run(bars, labels, tmp_path / "reward")
    shorter = write_bars(tmp_path / "shorter", episodes=3)
    with pytest.raises(ReflexError, match="give the dataset that was labelled"):
        run(shorter, labels, tmp_path / "other")
    empty = shutil.copytree(labels, tmp_path / "labels")
    (empty / LABELS).write_text("")
    with pytest.raises(ReflexError, match="no pair with an answer"):
        run(bars, empty, tmp_path / "empty")


class Brightness:
    """A reward model of a user's own."""

    def score(self, frames: np.ndarray, instruction: str, states: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(frames.mean(axis=(1, 2, 3), dtype=np.float32))


class Silent:
    """One that gives too little."""

    def score(self, frames: np.ndarray, instruction: str, states: np.ndarray | None = None) -> np.ndarray:
        return np.zeros(1, np.float32)


def test_a_model_of_ones_own_needs_only_score(bars: LeRobotDataset) -> None:
    episode = bars.episode(0)
    scores = score_episode(load_reward_model(f"{__name__}:Brightness"), episode)
    assert np.allclose(scores, episode.images["image"].mean(axis=(1, 2, 3)), rtol=1e-5)
    with pytest.raises(ReflexError, match=r"Silent gave rewards of shape \[1\]"):
        score_episode(load_reward_model(f"{__name__}:Silent"), episode)
