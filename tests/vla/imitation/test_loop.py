"""Targets, schedule, data order, loss, and that the loop learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vla.imitation.helpers import make_episode
from tests.vla.policies.helpers import small_policy
from vla.errors import ReflexError
from vla.imitation.augmentation import AugmentationConfig
from vla.imitation.loop import (
    AuxiliaryLoss,
    ImitationConfig,
    ImitationTrainer,
    batch_indices,
    learning_rate_at,
    token_loss,
)
from vla.imitation.samples import ArraySamples, EpisodeSamples, chunk_targets, set_normalisation_from_episodes
from vla.policies.decoding import gaussian_rows
from vla.policies.prismatic import PrismaticFeatures

NO_AUGMENTATION = AugmentationConfig(shift_pixels=0, brightness=0, contrast=0, colour=0)


def test_chunk_targets_repeat_the_last_action() -> None:
    actions = np.arange(4, dtype=np.float32)[:, None]
    assert chunk_targets(actions, 3)[..., 0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 3], [3, 3, 3]]
    assert chunk_targets(actions, 2, np.array([0, 3]))[..., 0].tolist() == [[0, 1], [3, 3]]


def test_schedule_by_hand() -> None:
    config = ImitationConfig(steps=12, warmup_steps=2, learning_rate=1.0, final_learning_rate=0.1)
    assert learning_rate_at(0, config) == pytest.approx(0.5)
    assert learning_rate_at(1, config) == pytest.approx(1.0)
    assert learning_rate_at(2, config) == pytest.approx(1.0)
    assert learning_rate_at(7, config) == pytest.approx(0.55)
    assert learning_rate_at(12, config) == pytest.approx(0.1)


def test_an_epoch_visits_every_sample_once_and_order_depends_on_seed_and_step_alone() -> None:
    steps = [batch_indices(10, 4, step, seed=3) for step in range(5)]
    order = np.concatenate(steps)
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10].tolist() != order[10:].tolist()
    np.testing.assert_array_equal(batch_indices(10, 4, 3, seed=3), steps[3])
    assert len(batch_indices(2, 5, 0, seed=0)) == 5


def test_loss_is_zero_exactly_at_the_targets_and_cross_entropy_without_smoothing() -> None:
    targets = gaussian_rows(6, 0.7)
    tokens = torch.tensor([[0, 3, 5]])
    assert token_loss(torch.log(targets[tokens]), tokens, targets).item() == pytest.approx(0.0, abs=1e-6)
    logits = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(logits[0], tokens[0])
    assert token_loss(logits, tokens, torch.eye(6)).item() == pytest.approx(expected.item(), abs=1e-6)


def test_samples_pair_an_observation_with_the_actions_that_follow_it() -> None:
    policy = small_policy()
    episodes = [make_episode(0), make_episode(1, length=3)]
    samples = EpisodeSamples(policy, episodes)
    assert len(samples) == 9
    inputs, tokens = samples.batch(np.array([2, 7]))
    np.testing.assert_array_equal(inputs.images[0, 0].numpy(), episodes[0].images[2])
    np.testing.assert_array_equal(inputs.images[1, 1].numpy(), episodes[1].wrist_images[1])
    np.testing.assert_array_equal(inputs.state[1].numpy(), episodes[1].states[1])
    expected = policy.tokenize_actions(chunk_targets(episodes[1].actions, 4)[1:2])
    np.testing.assert_array_equal(tokens[1:].numpy(), expected)
    with pytest.raises(ReflexError, match="no demonstrations"):
        EpisodeSamples(policy, [])


def test_arrays_give_the_same_samples_as_episodes() -> None:
    policy = small_policy()
    episode = make_episode(0)
    arrays = ArraySamples(
        policy,
        episode.images,
        episode.wrist_images,
        episode.states,
        [episode.instruction],
        np.zeros(6, np.int64),
        chunk_targets(episode.actions, 4),
    )
    indices = np.array([5, 0])
    first, second = arrays.batch(indices), EpisodeSamples(policy, [episode]).batch(indices)
    assert torch.equal(first[0].images, second[0].images) and torch.equal(first[0].text, second[0].text)
    assert torch.equal(first[1], second[1])
    with pytest.raises(ReflexError, match="equal, positive length"):
        ArraySamples(
            policy,
            episode.images,
            episode.wrist_images,
            episode.states[:2],
            [],
            np.zeros(6, np.int64),
            np.zeros((6, 4, 7), np.float32),
        )


def test_normalisation_comes_from_the_quantiles() -> None:
    policy = small_policy()
    episodes = [make_episode(index) for index in range(3)]
    set_normalisation_from_episodes(policy, episodes)
    actions = np.concatenate([episode.actions for episode in episodes])
    np.testing.assert_allclose(policy.normalisation.action_q99, np.quantile(actions, 0.99, axis=0), rtol=1e-6)
    assert policy.has_normalisation


def test_overfits_four_samples() -> None:
    policy = small_policy()
    config = ImitationConfig(
        steps=120, batch_size=4, learning_rate=1e-2, warmup_steps=10, label_sigma=0.0, augmentation=NO_AUGMENTATION
    )
    trainer = ImitationTrainer(policy, EpisodeSamples(policy, [make_episode(0, length=4)]), config)
    accuracies = [trainer.step()["train/token_accuracy"] for _ in range(config.steps)]
    assert accuracies[-1] > 0.95


class MeanVision(AuxiliaryLoss):
    """Pulls the mean of the vision tokens to a learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(5.0))
        self.seen: list[int] = []

    def loss(self, features: PrismaticFeatures, indices: np.ndarray) -> tuple[torch.Tensor, dict[str, float]]:
        self.seen.append(len(indices))
        loss = (features.vision.mean() - self.value) ** 2
        return loss, {"train/auxiliary": float(loss.detach())}


def test_auxiliary_losses_are_trained_too() -> None:
    policy = small_policy()
    auxiliary = MeanVision()
    config = ImitationConfig(steps=3, batch_size=2, learning_rate=0.1, warmup_steps=0)
    trainer = ImitationTrainer(policy, EpisodeSamples(policy, [make_episode(0)]), config, auxiliary)
    metrics = [trainer.step() for _ in range(3)]
    assert trainer.steps_done == 3 and auxiliary.seen == [2, 2, 2]
    assert metrics[-1]["train/auxiliary"] > 0 and auxiliary.value.item() < 4.9


def test_a_diverged_policy_stops_training() -> None:
    policy = small_policy()
    with torch.no_grad():
        policy.action_head.bias[0] = float("nan")
    with pytest.raises(ReflexError, match="loss became nan at step 1"):
        samples = EpisodeSamples(policy, [make_episode(0)])
        ImitationTrainer(policy, samples, ImitationConfig(steps=1, batch_size=2)).step()


@pytest.mark.parametrize("field", ["steps", "batch_size", "learning_rate", "gradient_clip"])
def test_settings_that_cannot_work_are_named(field: str) -> None:
    with pytest.raises(ReflexError, match=field):
        ImitationConfig(**{field: 0})  # type: ignore[arg-type] # any field
