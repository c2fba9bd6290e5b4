"""Targets, schedule, data order, loss, and that the loop learns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.vla.imitation.helpers import make_episode
from tests.vla.policies.helpers import make_observations, small_policy
from vla.data.episode import Episode
from vla.data.feature_map import FeatureMap
from vla.errors import ReflexError
from vla.imitation.augmentation import AugmentationConfig
from vla.imitation.loop import (
    AuxiliaryLoss,
    ImitationConfig,
    ImitationTrainer,
    batch_indices,
    learning_rate_at,
)
from vla.imitation.samples import ArraySamples, EpisodeSamples, chunk_targets, fit_normalisation
from vla.policies import TinyPolicy

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


def test_samples_pair_an_observation_with_the_actions_that_follow_it() -> None:
    policy = small_policy()
    episodes = [make_episode(0), make_episode(1, length=3)]
    samples = EpisodeSamples(policy, episodes)
    assert len(samples) == 9
    inputs, actions = samples.batch(np.array([2, 7]))
    np.testing.assert_array_equal(inputs.images[0, 0].numpy(), episodes[0].images["image"][2])
    np.testing.assert_array_equal(inputs.images[1, 1].numpy(), episodes[1].images["wrist_image"][1])
    np.testing.assert_array_equal(inputs.state[1].numpy(), episodes[1].states[1])
    np.testing.assert_array_equal(actions[1:], chunk_targets(episodes[1].actions, 4)[1:2])
    with pytest.raises(ReflexError, match="no demonstrations"):
        EpisodeSamples(policy, [])


def test_a_policy_that_was_told_nothing_finds_the_names_of_the_episodes() -> None:
    episode, told = make_episode(0), small_policy()
    action = replace(episode.embodiment.action, names=tuple(f"action_{number}" for number in range(7)))
    other = replace(episode, embodiment=replace(episode.embodiment, action=action))
    _, actions = EpisodeSamples(small_policy(), [other]).batch(np.array([0]))
    np.testing.assert_array_equal(actions[0], episode.actions[:4])
    told.feature_map = FeatureMap(action={"x": 1})
    with pytest.raises(ReflexError, match="'y'"):
        EpisodeSamples(told, [other])


def test_arrays_give_the_same_samples_as_episodes() -> None:
    policy = small_policy()
    episode = make_episode(0)
    arrays = ArraySamples(
        policy,
        episode.images,
        episode.states,
        [episode.instruction],
        np.zeros(6, np.int64),
        chunk_targets(episode.actions, 4),
    )
    indices = np.array([5, 0])
    first, second = arrays.batch(indices), EpisodeSamples(policy, [episode]).batch(indices)
    assert torch.equal(first[0].images, second[0].images) and torch.equal(first[0].text, second[0].text)
    np.testing.assert_array_equal(first[1], second[1])
    with pytest.raises(ReflexError, match="equal, positive length"):
        ArraySamples(
            policy,
            episode.images,
            episode.states[:2],
            [],
            np.zeros(6, np.int64),
            np.zeros((6, 4, 7), np.float32),
        )


def test_pictures_of_several_sizes_are_decoded_when_they_are_asked_for_and_share_a_batch() -> None:
    """A dataset may decode on demand, and sizes may differ between cameras and between episodes."""

    class OnDemand(Mapping[str, Any]):
        def __init__(self, episode: Episode, size: int) -> None:
            self.frames = {name: np.full((6, size, 2 * size, 3), size, np.uint8) for name in episode.images}
            self.asked: list[tuple[str, int]] = []

        def __getitem__(self, camera: str) -> Any:
            owner = self

            class Row:
                def __getitem__(self, row: int) -> Any:
                    owner.asked.append((camera, int(row)))
                    return owner.frames[camera][row]

            return Row()

        def __iter__(self) -> Iterator[str]:
            return iter(self.frames)

        def __len__(self) -> int:
            return len(self.frames)

    policy, plain = small_policy(), [make_episode(0), make_episode(1)]
    lazy = [OnDemand(episode, size) for episode, size in zip(plain, (24, 40), strict=True)]
    episodes = [replace(episode, images=images) for episode, images in zip(plain, lazy, strict=True)]
    samples = EpisodeSamples(policy, episodes)
    assert not lazy[0].asked, "nothing is decoded before it is needed"
    inputs, _ = samples.batch(np.array([4, 6]))
    assert lazy[0].asked == [("image", 4), ("wrist_image", 4)] and lazy[1].asked == [("image", 0), ("wrist_image", 0)]
    assert inputs.images.shape == (2, 2, 16, 16, 3)
    assert inputs.images[0].unique().tolist() == [24] and inputs.images[1].unique().tolist() == [40]


def test_each_observation_has_the_instruction_of_its_moment_and_actions_must_be_finite() -> None:
    policy = small_policy()
    changing = replace(make_episode(0), instructions=("open the drawer",) * 5 + ("stop",))
    inputs, _ = EpisodeSamples(policy, [changing]).batch(np.array([4, 5]))
    alone = policy.prepare({**make_observations(2), "instruction": ["open the drawer", "stop"]})
    assert torch.equal(inputs.text, alone.text)
    broken = replace(make_episode(1), actions=np.full((6, 7), np.nan, np.float32))
    with pytest.raises(ReflexError, match=r"demonstration 1 .* NaN or infinite"):
        EpisodeSamples(policy, [changing, broken])


def test_normalisation_comes_from_the_quantiles() -> None:
    policy = small_policy()
    episodes = [make_episode(index) for index in range(3)]
    fit_normalisation(policy, episodes)
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

    def __init__(self, policy: TinyPolicy) -> None:
        super().__init__()
        self.policy = [policy]  # in a list, so that its parameters are not registered twice
        self.value = torch.nn.Parameter(torch.tensor(5.0))
        self.seen: list[int] = []

    def losses(
        self, inputs: Any, actions: NDArray[np.float32], indices: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        self.seen.append(len(indices))
        features = self.policy[0].forward_features(inputs)
        losses, metrics = self.policy[0].imitation_loss_from_features(features, actions)
        loss = (features.vision.mean() - self.value) ** 2
        return losses, loss, metrics | {"auxiliary": float(loss.detach())}


def test_auxiliary_losses_are_trained_too() -> None:
    policy = small_policy()
    auxiliary = MeanVision(policy)
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
