"""An ensemble of action-conditioned dynamics models on vectors: states, frozen features, latents.

Each member predicts a Gaussian of the change of the observation and of the reward, and the chance that the episode ends
for good there (PETS, arXiv 1805.12114; the reward and elite members as in MBPO, arXiv 1906.08253). Members are one
batched product a layer instead of many small ones.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_models.errors import WorldModelError
from world_models.folders import WEIGHTS_FILE, read_config, read_weights, write_model_folder

MODEL_TYPE = "reflex_dynamics"
"""`model_type` in the config.json of a saved ensemble."""

SHARED = ("_mean", "_scale", "_range")
"""How the names of tensors end that belong to all members."""

_LEAST_SCALE = 1e-6
"""A dimension whose deviation over the data is less counts as one that never changes, and is not divided by it."""


class Predictions(NamedTuple):
    """What M members expect of B steps, D = O + 1: the change of the observation, then the reward.

    All of it less its mean over the data, in its deviations over the data, which `DynamicsEnsemble.next_observations`
    and `expected_rewards` undo.
    """

    means: Tensor
    """[M, B, D]"""
    deviations: Tensor
    """[M, B, D] above 0."""
    terminals: Tensor
    """[M, B] logits of the chance that the episode ends for good."""


class DynamicsEnsemble(nn.Module):
    """M networks of one shape; `world_models.dynamics.fit` fits them."""

    observation_mean: Tensor
    observation_scale: Tensor
    action_mean: Tensor
    action_scale: Tensor
    target_mean: Tensor
    target_scale: Tensor
    reward_range: Tensor

    def __init__(self, observation_size: int, action_size: int, hidden: tuple[int, ...], members: int) -> None:
        """Random weights from torch's global generator, and no normalisation yet."""
        super().__init__()
        self.observation_size, self.action_size = observation_size, action_size
        self.hidden, self.members = tuple(hidden), members
        target = observation_size + 1
        sizes = (observation_size + action_size, *hidden, 2 * target + 1)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            bound = inputs**-0.5
            self.weights.append(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
            self.biases.append(torch.empty(members, 1, outputs).uniform_(-bound, bound))
        self.least_log_variance = nn.Parameter(torch.full((members, 1, target), -10.0))
        self.greatest_log_variance = nn.Parameter(torch.full((members, 1, target), 0.5))
        for name, size in (("observation", observation_size), ("action", action_size), ("target", target)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        self.register_buffer("reward_range", torch.tensor([-torch.inf, torch.inf]))

    def fit_normalisation(self, observations: Tensor, actions: Tensor, changes: Tensor, rewards: Tensor) -> None:
        """Take the scales of observations [N, O], actions [N, A], changes [K, O] and rewards [N]."""
        for name, values in (("observation", observations), ("action", actions)):
            _take_scale(getattr(self, f"{name}_mean"), getattr(self, f"{name}_scale"), values)
        _take_scale(self.target_mean[:-1], self.target_scale[:-1], changes)
        _take_scale(self.target_mean[-1:], self.target_scale[-1:], rewards[:, None])
        self.reward_range.copy_(torch.stack([rewards.min(), rewards.max()]))

    def normalised_targets(self, changes: Tensor, rewards: Tensor) -> Tensor:
        """[..., O + 1] of changes of observations [..., O] and rewards [...], at the scale of `Predictions`."""
        return (torch.cat([changes, rewards[..., None]], dim=-1) - self.target_mean) / self.target_scale

    def forward(self, observations: Tensor, actions: Tensor) -> Predictions:
        """What every member expects after actions [B, A], or [M, B, A], in observations [B, O], or [M, B, O]."""
        values = torch.cat(
            [
                (observations - self.observation_mean) / self.observation_scale,
                (actions - self.action_mean) / self.action_scale,
            ],
            dim=-1,
        )
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = torch.matmul(values, weight) + bias
            values = functional.silu(values) if layer < last else values
        size = self.observation_size + 1
        means, log_variances, terminals = values.split([size, size, 1], dim=-1)
        # Soft bounds, so that a member cannot claim any precision, or none, where there is no data (PETS, appendix A).
        greatest, least = self.greatest_log_variance, self.least_log_variance
        log_variances = greatest - functional.softplus(greatest - log_variances)
        log_variances = least + functional.softplus(log_variances - least)
        return Predictions(means, torch.exp(0.5 * log_variances), terminals[..., 0])

    def next_observations(self, observations: Tensor, drawn: Tensor) -> Tensor:
        """[B, O] after observations [B, O], of normalised outcomes [B, O + 1] that were drawn."""
        return observations + drawn[..., :-1] * self.target_scale[:-1] + self.target_mean[:-1]

    def expected_rewards(self, found: Predictions) -> Tensor:
        """[B] the mean over members, within the range of the data's rewards.

        No draw, and nothing beyond what was ever earned: whoever chooses the best of many imagined rollouts would
        choose luck and errors, too.
        """
        rewards = found.means[..., -1].mean(0) * self.target_scale[-1] + self.target_mean[-1]
        return rewards.clamp(self.reward_range[0], self.reward_range[1])

    def loss(self, observations: Tensor, actions: Tensor, targets: Tensor, terminals: Tensor) -> Tensor:
        """[] the sum of the members' losses on batches of their own, [M, B, ...].

        The negative log-likelihood of normalised targets, and the cross entropy of terminals. What is observed after a
        terminal is not known, so that only the reward counts there.
        """
        found = self(observations, actions)
        known = torch.ones_like(targets)
        known[..., :-1] = 1.0 - terminals[..., None]
        errors = ((targets - found.means) / found.deviations).square() / 2 + found.deviations.log()
        likelihood = (errors * known).sum() / (known.sum() / self.members).clamp_min(1.0)
        ends = functional.binary_cross_entropy_with_logits(found.terminals, terminals) * self.members
        bounds = (self.greatest_log_variance - self.least_log_variance).sum()
        return cast(Tensor, likelihood + ends + 0.01 * bounds)

    @torch.no_grad()
    def errors(self, observations: Tensor, actions: Tensor, targets: Tensor, terminals: Tensor) -> Tensor:
        """[M] mean squared error of each member's means on steps [N, ...], in deviations; 1 is what a constant has."""
        total = torch.zeros(self.members, device=targets.device)
        count = 0.0
        for part in torch.split(torch.arange(len(targets), device=targets.device), 4096):
            known = torch.ones_like(targets[part])
            known[..., :-1] = 1.0 - terminals[part, None]
            found = self(observations[part], actions[part])
            total += ((found.means - targets[part]).square() * known).sum((1, 2))
            count += float(known.sum())
        return total / max(count, 1.0)

    def only(self, chosen: Tensor) -> DynamicsEnsemble:
        """An ensemble of the members `chosen`, by number."""
        with torch.random.fork_rng(devices=[]):
            kept = DynamicsEnsemble(self.observation_size, self.action_size, self.hidden, len(chosen))
        state = {name: value if name.endswith(SHARED) else value[chosen] for name, value in self.state_dict().items()}
        kept.load_state_dict(state)
        return kept.to(self.target_mean.device).eval()

    def save(self, folder: Path, telemetry: dict[str, float] | None = None) -> None:
        """Write config.json, model.safetensors and, if given, telemetry.json: all of them or none.

        Raises `WorldModelError` where the folder holds anything else, or cannot be written.
        """
        config = {
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "hidden": list(self.hidden),
            "members": self.members,
        }
        write_model_folder(folder, MODEL_TYPE, config, self.state_dict(), telemetry)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> DynamicsEnsemble:
        """Read a folder that `save` wrote. Raises `WorldModelError` naming the missing, damaged or mismatched file."""
        values = read_config(folder)
        if values.pop("model_type", None) != MODEL_TYPE:
            raise WorldModelError(f"{folder / 'config.json'} describes no ensemble of dynamics ({MODEL_TYPE})")
        weights = read_weights(folder)
        try:
            made = cls(hidden=tuple(values.pop("hidden")), **values)
            made.load_state_dict(weights)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise WorldModelError(
                f"{folder / WEIGHTS_FILE} does not fit config.json ({reason}); fit it again"
            ) from error
        return made.to(device).eval()


def _take_scale(mean: Tensor, scale: Tensor, values: Tensor) -> None:
    found = values.std(0, correction=0)
    mean.copy_(values.mean(0))
    scale.copy_(torch.where(found < _LEAST_SCALE, 1.0, found))
