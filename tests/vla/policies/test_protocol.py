"""A policy family of a user's own goes through fine-tuning, rollouts, updates and folders with nothing of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.own_policy import LinearPolicy
from sim.contract import FloatArray, ManipulationEnvironment
from sim.embodiments import PANDA_EEF
from sim.pool import EnvironmentPool, EpisodeRequest
from tests.fakes import FakeExpert, FakeSuite
from vla.data.lerobot_writer import LeRobotWriter
from vla.errors import ReflexError
from vla.imitation.fine_tune import FineTuneConfig, fine_tune
from vla.policies.protocol import AdaptablePolicy, Policy, TrainablePolicy
from vla.policies.registry import load_policy
from vla.policies.sampling import GREEDY, Sampling
from vla.rl.batch import Rollout, build_samples
from vla.rl.config import AlgoConfig, TrainConfig
from vla.rl.loop import Components, train
from vla.rl.update import make_optimiser, update_policy
from vla.rollout.play import Player
from vla.rollout.pool_rollouts import RolloutRequest, collect_rollouts

SAMPLING = Sampling(temperature=0.7, token_noise=0.0, chunk_correlation=0.0)


def make_policy(seed: int = 0) -> LinearPolicy:
    torch.manual_seed(seed)
    return LinearPolicy(PANDA_EEF.with_image_size(16), horizon=4).eval()


class OpenHanded(FakeExpert):
    """Keeps its gripper open, as -1 is for this robot."""

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        action = super().act(environment)
        action[6] = -1.0
        return action


def play(policy: TrainablePolicy, sampling: Sampling, count: int = 8):
    requests = [RolloutRequest(EpisodeRequest(0, "eval", index), index) for index in range(count)]
    with EnvironmentPool("fake", 4, 0, factory="tests.fakes:get_suite") as pool:
        return collect_rollouts(policy, pool, FakeSuite(), requests, sampling=sampling)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy after fine-tuning on an expert's demonstrations of one task."""
    folder = tmp_path_factory.mktemp("linear")
    player = Player(FakeSuite())
    writer = LeRobotWriter(folder / "dataset", "fake", PANDA_EEF.with_image_size(16))
    for index in range(6):
        wanted = RolloutRequest(EpisodeRequest(0, "train", index), index)
        writer.add_episode(player.play(wanted, OpenHanded(), "expert", frame_stride=1))
    writer.finalize()
    make_policy().save_pretrained(folder / "base")
    config = FineTuneConfig(
        dataset=str(folder / "dataset"),
        policy=str(folder / "base"),
        output=str(folder / "run"),
        policy_id="tuned",
        steps=300,
        batch_size=32,
        learning_rate=3e-2,
        device="cpu",
        threads=1,
    )
    summary = fine_tune(config)
    assert "token_accuracy" not in summary and summary["final_loss"] < 0.1
    return Path(summary["policy"])


def test_it_is_a_policy_by_the_protocols() -> None:
    policy = make_policy()
    assert isinstance(policy, Policy) and isinstance(policy, TrainablePolicy)
    assert not isinstance(policy, AdaptablePolicy)


def test_fine_tuning_teaches_it_the_task_and_its_folder_names_its_class(tuned: Path) -> None:
    policy = load_policy(tuned)
    assert isinstance(policy, LinearPolicy) and policy.policy_id == "tuned"
    before, after = (np.mean([episode.success for episode in play(each, GREEDY)]) for each in (make_policy(), policy))
    assert before < 0.3 and after > 0.7
    observation = {"observation.state": np.zeros(8, np.float32), "task": "move to the red target"}
    assert policy.select_action(observation).shape == (4, 7)


def test_its_rollouts_are_samples_whose_good_decisions_an_update_makes_likelier(tuned: Path) -> None:
    policy = LinearPolicy.from_pretrained(tuned)
    rollouts = [Rollout.from_episode(episode, policy) for episode in play(policy, SAMPLING)]
    for rollout in rollouts:
        assert rollout.decisions.dtype == np.float32 and rollout.decisions.shape[1] == 28
        assert rollout.executed.shape == (len(rollout.decisions), 28) and rollout.executed[:, 0].all()
    advantages = np.where(np.arange(len(rollouts)) % 2, 1.0, -1.0).astype(np.float32)
    samples = build_samples(rollouts, advantages, "episode", None, np.random.default_rng(0))
    assert samples is not None
    algo = AlgoConfig(reward="binary", sampling=SAMPLING, warmup_iterations=0, learning_rate=1e-3, minibatch_size=16)
    metrics = update_policy(
        policy, make_optimiser(policy, algo), samples, algo, iteration=0, generator=np.random.default_rng(0)
    )
    assert metrics["update/first_ratio_error"] < 1e-4 and metrics["update/steps"] > 1
    with torch.no_grad():
        now, _ = policy.log_prob(samples.inputs, samples.decisions, SAMPLING)
    change = (now - samples.old_log_probs).mean(1)
    assert change[samples.advantages > 0].mean() > change[samples.advantages < 0].mean() + 1e-3


def test_the_whole_training_loop_runs_on_it(tuned: Path, tmp_path: Path) -> None:
    algo = AlgoConfig(
        reward="binary",
        advantage="critic",
        variants=["webrl_replay"],
        sampling=replace(SAMPLING, temperature=2.0),
        group_size=4,
        groups_per_iteration=3,
        kl_coefficient=0.01,
    )
    config = TrainConfig(
        suite="fake", tasks=[0], policy=str(tuned), output=str(tmp_path / "run"), algo=algo, iterations=2,
        evaluation_episodes_per_task=4, videos_per_task=0, num_workers=0, num_slots=4, device="cpu", threads=1,
    )  # fmt: skip
    summary = train(config, Components("tests.fakes:get_suite", log=lambda line: None))
    assert summary["iterations"] == 2 and summary["training_episodes"] >= 24
    trained = load_policy(tmp_path / "run")
    assert isinstance(trained, LinearPolicy)
    assert not torch.equal(trained.mean.weight, LinearPolicy.from_pretrained(tuned).mean.weight)


def test_what_it_cannot_be_made_to_is_said(tuned: Path, tmp_path: Path) -> None:
    config = FineTuneConfig(
        dataset=str(tuned.parents[3] / "dataset"),
        policy=str(tuned),
        output=str(tmp_path),
        chunk_horizon=8,
        device="cpu",
    )
    with pytest.raises(ReflexError, match=r"another robot or chunk \(its class has no `adapt`\)"):
        fine_tune(config)
