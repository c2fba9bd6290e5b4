"""Every setting of a fine-tuning step reaches it, and a trainer that was saved goes on as one that was not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.vla.imitation.helpers import make_episode
from tests.vla.policies.helpers import small_policy
from vla.errors import ReflexError
from vla.imitation.augmentation import AugmentationConfig
from vla.imitation.loop import (
    OPTIMISER_FILE,
    AuxiliaryLoss,
    ImitationConfig,
    ImitationTrainer,
    build_optimisers,
    learning_rate_at,
)
from vla.imitation.samples import EpisodeSamples
from vla.policies.blocks.inputs import ModelInputs
from vla.policies.tiny import TinyFeatures, TinyPolicy
from vla.policies.tokens.decoding import gaussian_rows, token_losses

NO_AUGMENTATION = AugmentationConfig(shift_pixels=0, brightness=0, contrast=0, colour=0)
BASE: dict[str, Any] = {
    "steps": 3,
    "optimiser": "adamw",
    "batch_size": 4,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "final_learning_rate": 0.5,
    "weight_decay": 0.1,
    "gradient_clip": 0.5,
    "label_sigma": 1.0,
    "precision": "float32",
    "augmentation": NO_AUGMENTATION,
    "seed": 0,
}
"""Every field of the configuration, so that a new one needs a row in `OTHER` too."""
OTHER: dict[str, Any] = {
    "steps": 4,
    "optimiser": "muon",
    "batch_size": 5,
    "learning_rate": 2e-3,
    "warmup_steps": 2,
    "final_learning_rate": 0.1,
    "weight_decay": 0.0,
    "gradient_clip": 0.1,
    "label_sigma": 2.0,
    "precision": "bfloat16",
    "augmentation": AugmentationConfig(),
    "seed": 1,
}


def make_trainer(
    weights: NDArray[np.float32] | None = None, auxiliary: AuxiliaryLoss | None = None, **changes: Any
) -> ImitationTrainer:
    policy = small_policy()
    if isinstance(auxiliary, Moody):
        auxiliary.policy.append(policy)
    samples = EpisodeSamples(policy, [make_episode(0), make_episode(1)], weights)
    return ImitationTrainer(policy, samples, ImitationConfig(**(BASE | changes)), auxiliary)


def learnt(trainer: ImitationTrainer, steps: int = 3) -> torch.Tensor:
    """All weights after some steps, in one vector."""
    for _ in range(steps):
        trainer.step()
    return torch.cat([value.detach().flatten() for value in trainer.policy.parameters()])


@pytest.fixture(scope="module")
def usual() -> torch.Tensor:
    """What is learnt with `BASE`."""
    return learnt(make_trainer())


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ImitationConfig)])
def test_every_setting_changes_what_is_learnt(field: str, usual: torch.Tensor) -> None:
    assert not torch.equal(learnt(make_trainer(**{field: OTHER[field]})), usual)


def test_the_same_settings_learn_the_same(usual: torch.Tensor) -> None:
    assert torch.equal(learnt(make_trainer()), usual)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_matrices_decay_and_vectors_do_not(optimiser: str) -> None:
    policy = small_policy()
    optimisers = build_optimisers([policy], ImitationConfig(**(BASE | {"optimiser": optimiser})))
    groups = [group for one in optimisers for group in one.param_groups]
    decay = {id(value): group["weight_decay"] for group in groups for value in group["params"]}
    assert len(decay) == sum(len(group["params"]) for group in groups), "no parameter is in two groups"
    assert decay == {id(value): 0.1 if value.dim() >= 2 else 0.0 for value in policy.parameters()}


def test_muon_takes_the_matrices_of_hidden_layers_alone() -> None:
    policy = small_policy()
    adamw, muon = build_optimisers([policy], ImitationConfig(**(BASE | {"optimiser": "muon"})))
    names = {id(value): name for name, value in policy.named_parameters()}
    taken = {names[id(value)] for group in muon.param_groups for value in group["params"]}
    assert isinstance(adamw, torch.optim.AdamW) and isinstance(muon, torch.optim.Muon)
    assert {"language_model.layers.0.self_attn.q_proj.weight", "projector.0.weight"} <= taken
    assert not any(part in name for name in taken for part in ("embed", "head", "queries", "norm", "bias"))


def test_a_step_of_muon_is_as_large_as_one_of_adamw() -> None:
    trainer = make_trainer(optimiser="muon", warmup_steps=0, weight_decay=0.0)
    before = {name: value.detach().clone() for name, value in trainer.policy.named_parameters()}
    trainer.step()
    weight = trainer.policy.language_model.layers[0].mlp.up_proj.weight
    moved = (weight.detach() - before["language_model.layers.0.mlp.up_proj.weight"]) / 1e-3
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.2, rel=0.1)  # the size that it matches


def test_what_does_not_learn_has_no_optimiser() -> None:
    policy = small_policy()
    policy.freeze_vision()
    (adamw,) = build_optimisers([policy], ImitationConfig(**BASE))
    trained = {id(value) for group in adamw.param_groups for value in group["params"]}
    assert trained == {id(value) for value in policy.parameters() if value.requires_grad}


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_each_step_has_the_learning_rate_of_the_schedule(optimiser: str) -> None:
    trainer = make_trainer(optimiser=optimiser, steps=4, warmup_steps=2)
    for step in range(4):
        metrics = trainer.step()
        expected = learning_rate_at(step, trainer.config)
        rates = [group["lr"] for one in trainer.optimisers for group in one.param_groups]
        assert rates == [expected] * len(rates)
        assert metrics["train/learning_rate"] == expected
    assert learning_rate_at(0, trainer.config) == pytest.approx(5e-4)


def test_gradients_are_scaled_down_to_their_largest_norm() -> None:
    trainer = make_trainer(gradient_clip=0.01)
    metrics = trainer.step()
    gradients = [value.grad.flatten() for value in trainer.policy.parameters() if value.grad is not None]
    assert float(torch.cat(gradients).norm()) == pytest.approx(0.01, rel=1e-3)
    assert metrics["train/gradient_norm"] > 0.1, "what is reported is the norm before"


def first_batch(trainer: ImitationTrainer) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.int64]]:
    """Logits, tokens and indices of a batch of all samples, which is the first whatever its order."""
    indices = np.arange(len(trainer.samples))
    inputs, actions = trainer.samples.batch(indices)
    assert isinstance(trainer.policy, TinyPolicy)
    return trainer.policy(inputs).detach(), torch.from_numpy(trainer.policy.tokenize_actions(actions)), indices


def token_loss(
    logits: torch.Tensor, tokens: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The samples' losses, as they count."""
    losses = token_losses(logits, tokens, targets)
    return (losses if weights is None else losses * weights).mean()


@pytest.mark.parametrize("sigma", [0.0, 1.0, 3.0])
def test_the_targets_are_as_soft_as_the_setting_says(sigma: float) -> None:
    trainer = make_trainer(label_sigma=sigma, batch_size=12)
    logits, tokens, _ = first_batch(trainer)
    expected = token_loss(logits, tokens, gaussian_rows(256, sigma))
    assert trainer.step()["train/loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_samples_count_as_weighted() -> None:
    weights = np.linspace(0.0, 2.0, 12, dtype=np.float32)
    trainer = make_trainer(weights, batch_size=12)
    logits, tokens, indices = first_batch(trainer)
    expected = token_loss(logits, tokens, gaussian_rows(256, 1.0), torch.from_numpy(weights[indices]))
    plain = token_loss(logits, tokens, gaussian_rows(256, 1.0))
    assert trainer.step()["train/loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert abs(expected - plain) > 1e-3


def pictures_of_steps(monkeypatch: pytest.MonkeyPatch, seed: int) -> list[torch.Tensor]:
    """What the policy sees in three steps on one and the same sample."""
    policy, seen = small_policy(), []
    forward = policy.forward_features

    def record(inputs: ModelInputs) -> TinyFeatures:
        seen.append(inputs.images)
        return forward(inputs)

    monkeypatch.setattr(policy, "forward_features", record)
    settings = BASE | {"batch_size": 1, "augmentation": AugmentationConfig(), "seed": seed}
    trainer = ImitationTrainer(policy, EpisodeSamples(policy, [make_episode(0, length=1)]), ImitationConfig(**settings))
    for _ in range(3):
        trainer.step()
    return seen


def test_augmentation_depends_on_seed_and_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first, again, other = (torch.cat(pictures_of_steps(monkeypatch, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    assert len(torch.unique(first, dim=0)) == 3


def test_what_a_step_reports_by_hand() -> None:
    trainer = make_trainer(batch_size=12)
    logits, tokens, _ = first_batch(trainer)
    distance = (logits.argmax(-1) - tokens).abs()
    metrics = trainer.step()
    assert metrics["train/token_accuracy"] == pytest.approx((distance == 0).float().mean().item(), abs=1e-3)
    assert metrics["train/bin_distance"] == pytest.approx(distance.float().mean().item(), abs=0.5)
    assert trainer.steps_done == 1


class Moody(AuxiliaryLoss):
    """Pulls the mean of the vision tokens to a learned number, as hard as torch's dice say."""

    def __init__(self) -> None:
        super().__init__()
        self.policy: list[TinyPolicy] = []  # in a list, so that its parameters are not registered twice
        self.value = torch.nn.Parameter(torch.tensor(5.0))

    def losses(
        self, inputs: Any, actions: NDArray[np.float32], indices: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        policy = self.policy[0]
        features = policy.forward_features(inputs)
        losses, metrics = policy.imitation_loss_from_features(features, actions)
        loss = torch.rand(()) * (features.vision.mean() - self.value) ** 2
        return losses, loss, metrics | {"auxiliary": float(loss.detach())}


def test_a_saved_trainer_goes_on_as_one_that_was_not(tmp_path: Path) -> None:
    """Weights, optimiser, the auxiliary's own weights and torch's dice."""
    whole = make_trainer(auxiliary=Moody(), optimiser="muon", steps=4)
    torch.manual_seed(3)
    whole.step()
    whole.step()
    (tmp_path / "saved").mkdir()
    whole.save(tmp_path / "saved")
    value = float(whole.auxiliary.value.detach())  # type: ignore[union-attr] # it has one
    expected = [whole.step(), whole.step()]

    other = make_trainer(auxiliary=Moody(), optimiser="muon", steps=4)
    torch.manual_seed(4)
    other.load(tmp_path / "saved")
    assert other.steps_done == 2
    assert float(other.auxiliary.value.detach()) == value != 5.0  # type: ignore[union-attr] # it has one
    assert [other.step(), other.step()] == expected
    for (name, one), two in zip(whole.policy.named_parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(one, two), name


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._target,)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.save(tmp_path)
    torch.save({"optimisers": Bomb(tmp_path / "ran")}, tmp_path / OPTIMISER_FILE)
    with pytest.raises(ReflexError, match=rf"cannot restore .*{OPTIMISER_FILE}"):
        trainer.load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_steps_compute_in_the_precision_and_so_does_the_policy_from_then_on() -> None:
    rough, exact = make_trainer(precision="bfloat16", batch_size=12), make_trainer(batch_size=12)
    logits, tokens, _ = first_batch(rough)
    assert logits.dtype == torch.bfloat16
    expected = token_loss(logits, tokens, gaussian_rows(256, 1.0)).item()
    loss = rough.step()["train/loss"]
    assert loss == pytest.approx(expected, rel=1e-6)
    assert loss != pytest.approx(exact.step()["train/loss"], rel=1e-5)
