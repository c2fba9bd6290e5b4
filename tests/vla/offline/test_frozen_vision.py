"""Policies on frozen features of pictures: what they learn, that they see the same everywhere, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sim.pool import EnvironmentPool, EpisodeRequest
from tests.vla.data.point_suite import FACTORY, PointSuite
from tests.vla.data.samples import make_episode, write_dataset
from tests.vla.offline.test_command import config
from vla.data.episode import Episode
from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError
from vla.offline.command import train_from_logs
from vla.offline.reward_model.rows import features_of, look_at
from vla.policies.connect import connected
from vla.policies.gaussian import GaussianPolicy
from vla.policies.moment_features import PIXELS_SIDE
from vla.policies.registry import load_policy
from vla.rollout.observations import observations_at
from vla.rollout.pool_rollouts import play_rollouts
from vla.rollout.requests import RolloutRequest
from vla.run.files import read_json_object, write_json
from world_models.errors import WorldModelError
from world_models.jepa import JepaConfig, JepaEncoder
from world_models.jepa.model import Jepa

PIXELS = 3 * PIXELS_SIDE**2


def shown_only(seed: int) -> Episode:
    """What to do is in the picture alone: right where it is bright, left where it is dark."""
    generator, episode = np.random.default_rng(seed), make_episode(seed, length=8)
    bright = generator.random(8) < 0.5
    frames = np.where(bright[:, None, None, None], 220, 40).repeat(32, 1).repeat(32, 2).repeat(3, 3).astype(np.uint8)
    actions = np.where(bright, 0.8, -0.8)[:, None].repeat(7, 1).astype(np.float32)
    return replace(episode, images={"image": frames, "wrist_image": frames[:, ::-1]}, actions=actions)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("written") / "demos"
    return str(write_dataset(folder, [shown_only(seed) for seed in range(6)]))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder as `vla world-model` leaves one, untrained."""
    return write_encoder(tmp_path_factory.mktemp("encoders") / "small", seed=0)


def write_encoder(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    settings = JepaConfig(width=8, latent_size=8, predictor_size=8)
    JepaEncoder(Jepa(settings), settings).save(folder)
    return folder


def trained(dataset: str, output: Path, **changes: Any) -> GaussianPolicy:
    """Imitation, read back from its run folder."""
    settings: dict[str, Any] = {"algo": "bc", "encoder": "pixels", "updates": 3, **changes}
    train_from_logs(config(dataset, output, **settings))
    policy = load_policy(output)
    assert isinstance(policy, GaussianPolicy)
    return policy


def greedy(policy: GaussianPolicy, episode: Episode) -> np.ndarray:
    return policy.act(observations_at(episode, np.arange(len(episode.observation_steps)))).actions


def test_what_only_the_picture_says_is_learnt_from_the_picture(dataset: str, tmp_path: Path) -> None:
    training = {"updates": 150, "settings": {"bc": {"learning_rate": 3e-3}}}
    sees = trained(dataset, tmp_path / "sees", **training)
    blind = trained(dataset, tmp_path / "blind", encoder=None, **training)
    unseen = shown_only(77)
    assert np.abs(greedy(sees, unseen)[:, 0] - unseen.actions).mean() < 0.1
    assert np.abs(greedy(blind, unseen)[:, 0] - unseen.actions).mean() > 0.4


@pytest.mark.parametrize("camera", [None, "wrist_image"])
def test_it_is_shown_what_it_was_trained_on(dataset: str, tmp_path: Path, camera: str | None) -> None:
    policy = trained(dataset, tmp_path / "run", camera=camera, updates=30)
    opened, name = LeRobotDataset(dataset), camera or "image"
    assert policy.spec.embodiment.camera_names == (name,) and policy.observation_size == 8 + PIXELS
    features = features_of(opened, look_at(opened, "pixels", name))
    episode = opened.episode(2)
    prepared = policy.prepare(observations_at(episode, np.arange(8)))
    np.testing.assert_array_equal(prepared.state[:, :8].numpy(), episode.states)
    np.testing.assert_array_equal(prepared.state[:, 8:].numpy(), features[16:24])
    assert float(policy.state_scale(prepared.state).abs().max()) < 10  # at the scale of the data


def test_it_acts_in_the_pool_as_on_the_frames_that_the_pool_recorded(
    dataset: str, encoder: Path, tmp_path: Path
) -> None:
    policy, suite = trained(dataset, tmp_path / "run", encoder=str(encoder), camera="wrist_image"), PointSuite(None)
    episodes: dict[int, Episode] = {}
    requests = [RolloutRequest(EpisodeRequest(0, "eval", state), seed=state) for state in range(3)]
    with EnvironmentPool(FACTORY, 2, 0) as pool, connected(policy, suite.embodiment):
        play_rollouts(policy, pool, suite, requests, episodes.__setitem__)
    for episode in episodes.values():
        assert "wrist_image" in episode.images and len(episode.actions) > 1
        again = greedy(policy, episode)[: len(episode.actions), 0]
        np.testing.assert_allclose(again, episode.actions, atol=1e-6)
    assert np.ptp(episodes[0].actions[:, 0]) > 0  # the pictures change, and it with them


def test_an_encoder_that_was_trained_here_travels_with_the_policy(dataset: str, encoder: Path, tmp_path: Path) -> None:
    source = shutil.copytree(encoder, tmp_path / "small")
    first, episode = trained(dataset, tmp_path / "run", encoder=str(source)), shown_only(3)
    shutil.rmtree(source)
    first.save_pretrained(tmp_path / "copy")
    again = load_policy(tmp_path / "copy")
    assert isinstance(again, GaussianPolicy) and again.settings() == first.settings()
    np.testing.assert_array_equal(greedy(again, episode), greedy(first, episode))
    write_encoder(tmp_path / "copy" / "encoder", seed=1)
    with pytest.raises(ReflexError, match=r"was trained on features of 'jepa-8-.*restore that encoder"):
        load_policy(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "encoder")
    with pytest.raises(ReflexError, match=r"copy looks through the encoder '.*small', which cannot be loaded here"):
        load_policy(tmp_path / "copy")


def test_a_run_goes_on_as_if_it_had_not_been_stopped(dataset: str, tmp_path: Path) -> None:
    whole = trained(dataset, tmp_path / "whole", updates=12)
    stopped = {"updates": 12, "algo": "bc", "encoder": "pixels", "suite": "tabletop", "evaluate_every": 8}

    def interrupt(policy: GaussianPolicy) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_from_logs(config(dataset, tmp_path / "stopped", **stopped), on_evaluate=interrupt)
    train_from_logs(
        config(dataset, tmp_path / "stopped", resume=True, **stopped),
        on_evaluate=lambda policy: {"eval/success_rate": 0.0},
    )
    resumed = load_policy(tmp_path / "stopped")
    assert isinstance(resumed, GaussianPolicy)
    np.testing.assert_array_equal(greedy(resumed, shown_only(5)), greedy(whole, shown_only(5)))


def test_states_alone_decode_no_picture_and_cache_none(dataset: str, tmp_path: Path) -> None:
    copy = shutil.copytree(dataset, tmp_path / "demos")
    for video in (copy / "videos").rglob("*.mp4"):
        video.write_bytes(b"torn")
    assert trained(str(copy), tmp_path / "run", encoder=None).spec.embodiment.cameras == ()
    assert not copy.with_name("demos.features").exists()
    assert "vision" not in read_json_object(tmp_path / "run/checkpoints/3/policy/config.json")
    with pytest.raises(ReflexError, match=r"\.mp4"):
        trained(str(copy), tmp_path / "seen")


def test_what_cannot_be_looked_through_is_refused(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="camera=image has no use without an encoder"):
        trained(dataset, tmp_path / "run", encoder=None, camera="image")
    for name in ("state", "pictures"):
        with pytest.raises(ReflexError, match=f"encoder={name} gives a policy no frozen features"):
            trained(dataset, tmp_path / "run", encoder=name)
    with pytest.raises(ReflexError, match="has no camera 'front'"):
        trained(dataset, tmp_path / "run", camera="front")
    with pytest.raises(WorldModelError, match="unknown encoder 'pixel'"):
        trained(dataset, tmp_path / "run", encoder="pixel")
    policy = trained(dataset, tmp_path / "run")
    with pytest.raises(ReflexError, match="its scale cannot be taken from 8; keep the scale it has"):
        policy.fit_normalisation(np.zeros((2, 7), np.float32), np.zeros((2, 8), np.float32))
    with pytest.raises(ReflexError, match="the policy's camera 'image' is to be 'image' here"):
        policy.act({"images": {}, "state": np.zeros((1, 8), np.float32), "instruction": [""]})
    path = tmp_path / "run/checkpoints/3/policy/embodiment.json"
    write_json(path, {**read_json_object(path), "cameras": []})
    with pytest.raises(ReflexError, match="is to look through camera 'image'; its robot is panda: no camera"):
        load_policy(path.parent)
