"""A Gaussian about a perceptron of the state: what offline RL trains, and any other trainer of policies can.

The mean is a tanh, so that it stays within the action's limits; the deviation does not depend on the state (Implicit
Q-Learning, arXiv 2110.06169, section 5). It looks at no picture, so that rollouts of it draw none in a suite whose
robot has no camera, unless it is given frozen features of a camera's pictures (`FrozenVision`), which then stand beside
the state. It may be told a goal, the observation it shall reach, by the instruction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.contract import ObservationBatch
from sim.embodiments import Action, Embodiment
from vla.errors import ReflexError
from vla.policies.base import BasePolicy, Scale, TensorInputs, camera_frames, finite_states, gaussian_noise
from vla.policies.configuration import build
from vla.policies.gaussian.perceptron import Parameters, hidden_layers, new_perceptron, perceptron
from vla.policies.gaussian.vision import FrozenVision
from vla.policies.normalisation import ScaleFrom
from vla.policies.protocol import PolicyOutput, PolicySpec
from vla.policies.sampling import GREEDY, Sampling
from vla.policies.storage import write_policy_folder

LOG_DEVIATIONS = (-5.0, 2.0)
"""The least and the greatest logarithm of a deviation, of actions in [-1, 1]."""


@dataclass(frozen=True)
class States(TensorInputs):
    """What the policy looks at."""

    state: Tensor
    """[B, I] float32, not yet normalised: the robot's S numbers, the F of its picture, and the same of the goal."""


def gaussian_mean(parameters: Mapping[str, Tensor], states: Tensor, bfloat16: bool = False) -> Tensor:
    """Normalised states [B, S] -> mean [B, K] in [-1, 1]; `bfloat16` as of `hidden_layers`."""
    return torch.tanh(perceptron(parameters, states, bfloat16))


def log_deviations(parameters: Mapping[str, Tensor]) -> Tensor:
    """[K] within `LOG_DEVIATIONS`."""
    return parameters["log_deviation"].clamp(*LOG_DEVIATIONS)


def log_density(values: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """[B] log-density of values [B, K] under N(mean [B, K], exp(log_deviation [K])^2), independent in each number."""
    scores = (values - mean) * torch.exp(-log_deviation)
    densities: Tensor = -0.5 * scores**2 - log_deviation - 0.5 * math.log(2 * math.pi)
    return densities.sum(-1)


class GaussianPolicy(BasePolicy):
    """Chunks of H actions; a decision is what was drawn [H * A], at the scale of [-1, 1], before limits cut it."""

    family = "gaussian"
    goals: Tensor
    """[K, O] what to reach, not yet normalised, for each of `instructions`; there is none without goals."""

    def __init__(
        self,
        embodiment: Embodiment,
        hidden: Sequence[int] = (256, 256),
        chunk_horizon: int = 1,
        execute_steps: int | None = None,
        policy_id: str = "gaussian",
        vision: FrozenVision | Mapping[str, Any] | None = None,
        goals: Sequence[str] = (),
    ) -> None:
        """Random weights, from torch's global generator.

        Args:
            embodiment: the robot; its cameras are left out, all but that of `vision`.
            hidden: widths of the hidden layers.
            chunk_horizon: H, actions in a chunk.
            execute_steps: how many of them are executed before the next decision; None for all.
            policy_id: short name written into episodes.
            vision: what it sees of a camera, or the description of it that config.json keeps; None for no picture.
            goals: instructions for each of which it is told a goal, of `goals` [K, O]; none for a policy without.
        """
        seen = build(FrozenVision, vision) if isinstance(vision, Mapping) else vision
        if seen is not None and seen.camera not in embodiment.camera_names:
            raise ReflexError(
                f"policy {policy_id} is to look through camera {seen.camera!r}; its robot is {embodiment.describe()}"
            )
        cameras = () if seen is None else (embodiment.camera(seen.camera),)
        super().__init__(replace(embodiment, cameras=cameras), policy_id)
        self.vision = seen
        self.hidden, self.chunk_horizon = tuple(hidden), chunk_horizon
        self.execute_steps = chunk_horizon if execute_steps is None else execute_steps
        if chunk_horizon < 1 or not 1 <= self.execute_steps <= chunk_horizon:
            raise ReflexError(
                f"a chunk of {chunk_horizon} actions of which {self.execute_steps} are executed; both must be at least "
                "1, and no more can be executed than there are"
            )
        numbers = chunk_horizon * embodiment.action.size
        self.instructions = tuple(goals)
        if self.instructions:
            self.register_buffer("goals", torch.zeros(len(self.instructions), self.observation_size))
        if self.input_size != embodiment.state.size:
            self.state_scale = Scale(self.input_size)
        layers = new_perceptron((self.input_size, *self.hidden, numbers))
        self.network = torch.nn.ParameterDict(layers | {"log_deviation": torch.zeros(numbers)})

    @property
    def observation_size(self) -> int:
        """O: numbers of what it feels and sees."""
        return self.embodiment.state.size + (0 if self.vision is None else self.vision.size)

    @property
    def input_size(self) -> int:
        """I: numbers that the network takes, O, or 2 O with a goal."""
        return self.observation_size * (2 if self.instructions else 1)

    def settings(self) -> dict[str, Any]:
        """What config.json keeps."""
        more: dict[str, Any] = {} if self.vision is None else {"vision": self.vision.describe()}
        more |= {"goals": list(self.instructions)} if self.instructions else {}
        return {
            "hidden": list(self.hidden),
            "chunk_horizon": self.chunk_horizon,
            "execute_steps": self.execute_steps,
            **more,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a policy folder, replacing an earlier one atomically; with the encoder where it was trained here."""
        config = {"family": self.family, "policy_id": self.policy_id, **self.settings()}
        more = None if self.vision is None else self.vision.save
        write_policy_folder(Path(folder), config, self.embodiment, self.feature_map, self.state_dict(), more=more)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> Self:
        """Read a folder written by `save_pretrained`.

        Raises `ReflexError` naming the file at fault, or an encoder that is not there or is another now.
        """
        policy = super().from_pretrained(folder, device)
        if policy.vision is not None:
            policy.vision = policy.vision.opened(Path(folder), device)
        return policy

    @property
    def spec(self) -> PolicySpec:
        """One unit for each number of the chunk: it counts once its step is executed."""
        units = tuple(step for step in range(self.chunk_horizon) for _ in self.embodiment.action.names)
        uses_state = self.embodiment.state.size > 0 or self.vision is None
        return PolicySpec(self.embodiment, uses_state, self.chunk_horizon, self.execute_steps, units)

    # its weights and scale, for a trainer that works on arrays

    def parameter_mapping(self) -> Parameters:
        """Copies of the network's weights, by name."""
        return {name: value.detach().clone() for name, value in self._weights.items()}

    @property
    def _weights(self) -> Parameters:
        return dict(self.network.items())

    @torch.no_grad()
    def set_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Take the network's weights, in place, from a mapping such as `parameter_mapping` gives."""
        for name, value in self._weights.items():
            value.copy_(parameters[name])

    @torch.no_grad()
    def mean_deviation(self) -> float:
        """Of what is drawn at temperature 1: the mean over a chunk's numbers, at the scale of [-1, 1]."""
        return float(log_deviations(self._weights).exp().mean())

    def fit_normalisation(
        self, actions: NDArray[np.float32], states: NDArray[np.float32], scale: ScaleFrom = "mean_std"
    ) -> None:
        """Take the scale of what the network takes, [N, I] (mean and deviation), and of actions [N, A], to [-1, 1].

        Of actions the limits where the robot has them, else the least and greatest of the data, whatever `scale` says.
        Raises `ReflexError` for bare states where it sees too, or is told a goal.
        """
        if states.shape[1] != self.input_size:
            raise ReflexError(
                f"policy {self.policy_id} takes {self.input_size} numbers, features of pictures or a goal among them, "
                f"and its scale cannot be taken from {states.shape[1]}; keep the scale it has (normalisation=keep)"
            )
        low, high = action_range(self.embodiment.action, actions)
        self.action_scale.mean.copy_(torch.from_numpy((high + low) / 2))
        self.action_scale.deviation.copy_(torch.from_numpy((high - low) / 2))
        self.action_scale.fitted.fill_(True)
        self.state_scale.fit(states)

    # decisions

    def prepare(self, observations: ObservationBatch) -> States:
        """States, features of pictures and goals, those of the three that it takes, on the CPU.

        Raises `ReflexError` for another size, NaN or infinity, a missing camera, an encoder that is not loaded, or an
        instruction that there is no goal for.
        """
        seen = self._observed(observations)
        if not self.instructions:
            return States(seen)
        strange = sorted(set(observations["instruction"]) - set(self.instructions))
        if strange:
            raise ReflexError(
                f"policy {self.policy_id} has a goal for {', '.join(map(repr, self.instructions))}, and is asked for "
                f"{strange[0]!r}; choose one of its tasks, or train it on successes of this one"
            )
        rows = [self.instructions.index(instruction) for instruction in observations["instruction"]]
        return States(torch.cat([seen, self.goals[rows].cpu()], dim=1))

    def _observed(self, observations: ObservationBatch) -> Tensor:
        """[B, O] states and features of pictures."""
        if self.vision is None:
            return finite_states(observations, self.embodiment.state.size)
        camera = self.embodiment.camera(self.vision.camera)
        frames = camera_frames(observations["images"], camera.name, self.feature_map, camera.height, camera.width)
        parts = [torch.from_numpy(self.vision.of_frames(frames.numpy()))]
        if self.spec.uses_state:
            parts.insert(0, finite_states(observations, self.embodiment.state.size))
        return torch.cat(parts, dim=1)

    def _gaussian(self, inputs: States, sampling: Sampling) -> torch.distributions.Normal:
        """What decisions [B, H * A] are drawn from."""
        mean = gaussian_mean(self._weights, self.state_scale(inputs.state))
        deviation = log_deviations(self._weights).exp() * (1.0 if sampling.greedy else sampling.temperature)
        return torch.distributions.Normal(mean, deviation.expand_as(mean), validate_args=False)

    @torch.no_grad()
    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        """Decide for B environments, see `Policy.act`; greedy is the mean. Raises `ReflexError` on bad input."""
        inputs = self.prepare(observations)
        gaussian = self._gaussian(inputs, sampling)
        decision = gaussian.mean
        if not sampling.greedy:
            noise = gaussian_noise(generators, len(inputs), decision.shape[1:])
            decision = decision + gaussian.stddev * noise.to(self.device)
        if not torch.isfinite(decision).all():
            raise ReflexError(f"policy {self.policy_id} produced NaN or infinite actions; its weights have diverged")
        log_probs: Tensor = gaussian.log_prob(decision)  # type: ignore[no-untyped-call]
        within = decision.clamp(-1.0, 1.0).view(len(inputs), self.chunk_horizon, -1)
        return PolicyOutput(
            actions=self.embodiment.action.clip(self.action_scale.inverse(within).cpu().numpy()),
            decision=decision.cpu().numpy(),
            log_probs=log_probs.cpu().numpy(),
            features=self.features_from_inputs(inputs),
            inputs=inputs,
        )

    def log_prob(self, inputs: Any, decisions: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """See `TrainablePolicy.log_prob`."""
        gaussian = self._gaussian(inputs, sampling)
        log_probs: Tensor = gaussian.log_prob(decisions.to(self.device))  # type: ignore[no-untyped-call]
        entropies: Tensor = gaussian.entropy()  # type: ignore[no-untyped-call]
        return log_probs, entropies

    def imitation_loss(self, inputs: Any, actions: NDArray[np.float32]) -> tuple[Tensor, dict[str, float]]:
        """The mean squared error of each chunk [B], at the scale of [-1, 1].

        It leaves the deviation to RL: a likelihood would take it to 0 where demonstrations never vary.
        """
        mean = gaussian_mean(self._weights, self.state_scale(inputs.state))
        errors = mean - self.action_scale(torch.from_numpy(actions)).flatten(1)
        return errors.square().mean(1), {"error": float(errors.detach().abs().mean())}

    @torch.no_grad()
    def features_from_inputs(self, inputs: Any) -> NDArray[np.float32]:
        """[B, width] the last hidden layer."""
        features: NDArray[np.float32] = hidden_layers(self._weights, self.state_scale(inputs.state)).cpu().numpy()
        return features


def action_range(action: Action, data: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Least and greatest command [A]: the robot's limits, or those of data [N, A] where it has none.

    A command that never changes gets a range of 2 about it, so that it can be divided by.
    """
    if action.low:
        return np.array(action.low, np.float32), np.array(action.high, np.float32)
    low, high = data.min(axis=0), data.max(axis=0)
    still = high - low < 1e-6
    return np.where(still, low - 1.0, low), np.where(still, high + 1.0, high)
