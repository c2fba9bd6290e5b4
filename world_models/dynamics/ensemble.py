"""An ensemble of action-conditioned dynamics models on vectors: states, frozen features, latents.

Each member predicts a Gaussian of the change of the observation (PETS, arXiv 1805.12114), the reward, and the chance
that the episode ends for good. The best members are kept, as in MBPO (arXiv 1906.08253). Members are one batched
product a layer instead of many small ones.
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
    """What M members expect of B steps. Changes of the observation are in deviations over the data, less their mean;
    `DynamicsEnsemble.next_observations` undoes that, `expected_rewards` does so for rewards."""

    means: Tensor
    """[M, B, O] of the change of the observation."""
    deviations: Tensor
    """[M, B, O] above 0."""
    rewards: Tensor
    """[M, B] in deviations, less the mean."""
    terminals: Tensor
    """[M, B] logits of the chance that the episode ends for good."""


class DynamicsEnsemble(nn.Module):
    """M networks of one shape; `world_models.dynamics.fit` fits them."""

    observation_mean: Tensor
    observation_scale: Tensor
    action_mean: Tensor
    action_scale: Tensor
    change_mean: Tensor
    change_scale: Tensor
    reward_mean: Tensor
    reward_scale: Tensor
    reward_range: Tensor

    def __init__(self, observation_size: int, action_size: int, hidden: tuple[int, ...], members: int) -> None:
        """Random weights from torch's global generator, and no normalisation yet."""
        super().__init__()
        self.observation_size, self.action_size = observation_size, action_size
        self.hidden, self.members = tuple(hidden), members
        sizes = (observation_size + action_size, *hidden, 2 * observation_size + 2)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            bound = inputs**-0.5
            self.weights.append(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
            self.biases.append(torch.empty(members, 1, outputs).uniform_(-bound, bound))
        self.least_log_variance = nn.Parameter(torch.full((members, 1, observation_size), -10.0))
        self.greatest_log_variance = nn.Parameter(torch.full((members, 1, observation_size), 0.5))
        scaled = {"observation": observation_size, "action": action_size, "change": observation_size, "reward": 1}
        for name, size in scaled.items():
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        self.register_buffer("reward_range", torch.tensor([-torch.inf, torch.inf]))

    def fit_normalisation(self, observations: Tensor, actions: Tensor, changes: Tensor, rewards: Tensor) -> None:
        """Take the scales of observations [N, O], actions [N, A], changes [K, O] and rewards [N]."""
        given = {"observation": observations, "action": actions, "change": changes, "reward": rewards[:, None]}
        for name, values in given.items():
            deviation = values.std(0, correction=0)
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            getattr(self, f"{name}_scale").copy_(torch.where(deviation < _LEAST_SCALE, 1.0, deviation))
        self.reward_range.copy_(torch.stack([rewards.min(), rewards.max()]))

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
        size = self.observation_size
        means, log_variances, rewards, terminals = torch.split(values, [size, size, 1, 1], dim=-1)
        # Soft bounds, so that a member cannot claim any precision, or none, where there is no data (PETS, appendix A).
        greatest, least = self.greatest_log_variance, self.least_log_variance
        log_variances = greatest - functional.softplus(greatest - log_variances)
        log_variances = least + functional.softplus(log_variances - least)
        return Predictions(means, torch.exp(0.5 * log_variances), rewards[..., 0], terminals[..., 0])

    def next_observations(self, observations: Tensor, drawn: Tensor) -> Tensor:
        """[B, O] after observations [B, O], of changes [B, O] that were drawn at the scale of `Predictions`."""
        return observations + drawn * self.change_scale + self.change_mean

    def expected_rewards(self, found: Predictions) -> Tensor:
        """[B] the mean over members, within the range of the data's rewards.

        No draw, and nothing beyond what was ever earned: whoever chooses the best of many imagined rollouts would
        choose luck and errors, too.
        """
        rewards = found.rewards.mean(0) * self.reward_scale + self.reward_mean
        return rewards.clamp(self.reward_range[0], self.reward_range[1])

    def loss(
        self, observations: Tensor, actions: Tensor, changes: Tensor, rewards: Tensor, terminals: Tensor
    ) -> Tensor:
        """[] the sum of the members' losses on batches of their own, [M, B, O] and [M, B], in their own units.

        The negative log-likelihood of changes (what follows a terminal is not known, and does not count), the squared
        error of rewards, the cross entropy of terminals. A likelihood of rewards would learn a rare one as noise.
        """
        found = self(observations, actions)
        known = (1.0 - terminals)[..., None].expand_as(changes)
        scores = ((changes - self.change_mean) / self.change_scale - found.means) / found.deviations
        likelihood = ((scores.square() / 2 + found.deviations.log()) * known).sum() / known.sum().clamp_min(1.0)
        errors = ((rewards - self.reward_mean) / self.reward_scale - found.rewards).square().mean() / 2
        ends = functional.binary_cross_entropy_with_logits(found.terminals, terminals)
        bounds = (self.greatest_log_variance - self.least_log_variance).mean()
        return cast(Tensor, self.members * (likelihood + errors + ends + 0.01 * bounds))

    @torch.no_grad()
    def errors(
        self, observations: Tensor, actions: Tensor, changes: Tensor, rewards: Tensor, terminals: Tensor
    ) -> Tensor:
        """[M, 2] mean squared errors of each member on steps [N, O] and [N]: of changes, and of rewards.

        In deviations over the data: 1 is what a constant has.
        """
        sums = torch.zeros(self.members, 2, device=rewards.device)
        for part in torch.split(torch.arange(len(rewards), device=rewards.device), 4096):
            found = self(observations[part], actions[part])
            wrong = (changes[part] - self.change_mean) / self.change_scale - found.means
            sums[:, 0] += (wrong.square().mean(-1) * (1.0 - terminals[part])).sum(1)
            sums[:, 1] += ((rewards[part] - self.reward_mean) / self.reward_scale - found.rewards).square().sum(1)
        counts = torch.stack([(1.0 - terminals).sum().clamp_min(1.0), torch.tensor(float(len(rewards))).to(sums)])
        return sums / counts

    def only(self, chosen: Tensor) -> DynamicsEnsemble:
        """An ensemble of the members `chosen`, by number."""
        with torch.random.fork_rng(devices=[]):
            kept = DynamicsEnsemble(self.observation_size, self.action_size, self.hidden, len(chosen))
        state = {name: value if name.endswith(SHARED) else value[chosen] for name, value in self.state_dict().items()}
        kept.load_state_dict(state)
        return kept.to(self.change_mean.device).eval()

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
