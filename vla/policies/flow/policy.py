"""The flow policy: a backbone that sees once, and a flow head that turns noise into a chunk of actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sim.contract import Observation, ObservationBatch
from sim.embodiments import Embodiment
from vla.data.feature_map import FeatureMap
from vla.errors import ReflexError
from vla.policies.adaptation import take_over, what_differs
from vla.policies.base import gaussian_noise
from vla.policies.blocks.inputs import ModelInputs
from vla.policies.flow import matching
from vla.policies.flow.configuration import FlowConfig
from vla.policies.flow.head import FlowHead, Known
from vla.policies.flow.prefix import Prefix, guided_velocity
from vla.policies.flow.storage import BACKBONE_FOLDER, read_flow_config, write_flow
from vla.policies.observations import greedy_chunk
from vla.policies.protocol import Adapted, PolicyOutput, PolicySpec
from vla.policies.registry import load_policy
from vla.policies.sampling import GREEDY, Sampling
from vla.policies.storage import read_weights
from vla.policies.tokens.policy import TokenPolicy


class FlowPolicy(nn.Module):
    """Flow matching over action chunks; satisfies `vla.policies.protocol.TrainablePolicy`.

    A decision is its denoising chain [B, K + 1, H, A], noise first, in normalised units. A unit of its
    log-probabilities is one noisy denoising step of one action, the density of all A entries together: A numbers that
    are commanded at once stand or fall together, and clipping their joint ratio is what PPO does with a Gaussian
    action.
    """

    def __init__(self, backbone: TokenPolicy, config: FlowConfig) -> None:
        super().__init__()
        self.config, self.backbone = config, backbone
        queries, width = backbone.action_queries.shape
        self.head = FlowHead(config, width, queries, backbone.config.chunk_shape)

    @classmethod
    def on(cls, backbone: TokenPolicy, config: FlowConfig | None = None) -> FlowPolicy:
        """A trained backbone with a fresh head, which acts on what the tokens' distribution expects.

        Seed the head's random weights with `torch.manual_seed`.
        """
        config = config or FlowConfig()
        if not config.policy_id:
            config = replace(config, policy_id=f"{backbone.policy_id}-flow")
        return cls(backbone, config).to(backbone.device).eval()

    def token_policy(self) -> TokenPolicy:
        """The backbone with the token head that it came with."""
        return self.backbone

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> FlowPolicy:
        """Read a folder written by `save_pretrained`. Raises `ReflexError` naming the file at fault."""
        config, backbone = read_flow_config(Path(folder)), load_policy(Path(folder) / BACKBONE_FOLDER)
        if not isinstance(backbone, TokenPolicy):
            raise ReflexError(f"{folder}: its {BACKBONE_FOLDER} is no policy over tokens, which a flow head needs")
        policy = cls(backbone, config)
        read_weights(policy.head, Path(folder))
        return policy.to(device).eval()

    def load_weights_from(self, folder: str | Path) -> None:
        """Take weights and normalisation of a folder written by a policy of the same configuration, in place."""
        self.backbone.load_weights_from(Path(folder) / BACKBONE_FOLDER)
        read_weights(self.head, Path(folder))

    def save_pretrained(self, folder: str | Path, dtype: str | None = None) -> None:
        """Write config.json, the head's model.safetensors and the backbone's folder, replacing the folder atomically.

        `dtype` is the backbone's stored precision, see `TokenPolicy.save_pretrained`; the head keeps its own.
        """
        write_flow(self.backbone, self.head, self.config, Path(folder), dtype)

    def adapt(
        self, embodiment: Embodiment, *, chunk_horizon: int | None = None, execute_steps: int | None = None
    ) -> Adapted:
        """See `AdaptablePolicy.adapt`: the backbone's, and of the head what does not name the action's entries."""
        backbone = self.backbone.adapt(embodiment, chunk_horizon=chunk_horizon, execute_steps=execute_steps)
        assert isinstance(backbone.policy, TokenPolicy)
        policy = type(self)(backbone.policy, self.config)
        _, new_action = what_differs(self.backbone.embodiment, embodiment)
        parts = {"action_in": new_action, "velocity_out": new_action, "noise_out": new_action}
        taken, fresh = take_over(policy.head, self.head, parts | {"position": False, "condition": False})
        return Adapted(
            policy.to(self.device).eval(),
            (*backbone.taken, *(f"head.{part}" for part in taken)),
            (*backbone.fresh, *(f"head.{part}" for part in fresh)),
        )

    # description

    @property
    def policy_id(self) -> str:
        """Short name written into episodes."""
        return self.config.policy_id

    @policy_id.setter
    def policy_id(self, name: str) -> None:
        self.config = replace(self.config, policy_id=name)

    @property
    def spec(self) -> PolicySpec:
        """What the policy sees and emits."""
        spec = self.backbone.spec
        units = tuple(step for _ in self.config.noisy_steps for step in range(spec.chunk_horizon))
        return replace(spec, unit_steps=units)

    @property
    def feature_map(self) -> FeatureMap:
        """What the policy's cameras are called where it acts or learns."""
        return self.backbone.feature_map

    @feature_map.setter
    def feature_map(self, feature_map: FeatureMap) -> None:
        self.backbone.feature_map = feature_map

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.backbone.device

    # what the backbone does

    @property
    def has_normalisation(self) -> bool:
        """Whether the scale of its actions and states was taken from data."""
        return self.backbone.has_normalisation

    def fit_normalisation(self, actions: NDArray[np.float32], states: NDArray[np.float32]) -> None:
        """Take the scale of actions [N, A] and states [N, S] from data."""
        self.backbone.fit_normalisation(actions, states)

    def prepare(self, observations: ObservationBatch) -> ModelInputs:
        """Observations to tensors on the CPU. Raises `ReflexError` on bad input."""
        return self.backbone.prepare(observations)

    def set_precision(self, precision: str) -> None:
        """Compute the backbone in "float32", "bfloat16" or what suits the device ("auto"); the head is in float32."""
        self.backbone.set_precision(precision)

    def freeze_vision(self) -> None:
        """Let only what follows the vision tokens learn."""
        self.backbone.freeze_vision()

    def encode_vision(self, inputs: ModelInputs) -> ModelInputs:
        """The same inputs with pictures replaced by vision tokens."""
        return self.backbone.encode_vision(inputs)

    def features_from_inputs(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """[B, D] mean hidden state of the action queries: what the policy makes of what it sees before it acts."""
        return self.backbone.features_from_inputs(inputs)

    # decisions

    @torch.no_grad()
    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
        prefix: Prefix | None = None,
    ) -> PolicyOutput:
        """Decide for B environments by denoising chains; see `Policy.act`.

        With a `prefix`, the chunks continue the actions under way (`vla.policies.flow.prefix`); their steps must then
        be certain, since no density is known of guided ones.

        Greedy follows the ODE from zero, the middle of the noise. Otherwise the chain starts at random, noise times
        `sampling.temperature`, and its steps have the noise of `sampling.flow_noise`; at 0 that is the ODE from random
        noise, and log-probabilities are 0 as they are when greedy, since no step is left to chance.

        Raises `ReflexError` for missing generators, bad observations, non-finite velocities, or a prefix with sampling
        that adds noise to steps.
        """
        if prefix is not None and not (sampling.greedy or sampling.flow_noise == 0):
            raise ReflexError("a prefix needs sampling whose steps are certain: temperature=0 or flow_noise=0")
        inputs = self.backbone.inputs_to_decide(observations)
        hidden = self.backbone.decision_hidden(inputs)
        known = self._known(hidden)
        normals = self._normals(len(inputs), sampling, generators).to(self.device)
        chain, log_probs = self._denoise(known, normals, sampling, prefix)
        if not torch.isfinite(chain.sum()):
            raise ReflexError(
                f"policy {self.policy_id} produced NaN or infinite actions; its weights have diverged "
                "(lower the learning rate, or load an earlier checkpoint)"
            )
        decision = chain.cpu().numpy()
        actions = self.backbone.from_normalised(decision[:, -1])
        features = hidden.mean(dim=1).float().cpu().numpy()
        return PolicyOutput(actions, decision, log_probs.cpu().numpy(), features, inputs)

    def select_action(self, observation: Observation | Mapping[str, Any]) -> NDArray[np.float32]:
        """The greedy chunk [H, A] after one observation, ours or a LeRobot dataset's (`as_observation`)."""
        return greedy_chunk(self, observation)

    def _normals(self, count: int, sampling: Sampling, generators: Sequence[np.random.Generator] | None) -> Tensor:
        """[B, 1 + noisy steps, H, A]: the chain's start and its steps' noise; zeros when greedy."""
        horizon, action_size = self.backbone.config.chunk_shape
        rows = 1 + len(self.config.noisy_steps)
        if sampling.greedy:
            return torch.zeros(count, rows, horizon, action_size)
        normals = gaussian_noise(generators, count, (rows, horizon + 1, action_size))
        # Only the steps' noise, from which something is learnt, explores whole chunks. What the start leaves in the
        # actions is jitter that nothing is learnt from, which a temperature below 1 makes less of.
        start = sampling.temperature * normals[:, :1, 1:]
        return torch.cat([start, matching.correlate_steps(normals[:, 1:], sampling.chunk_correlation)], dim=1)

    def _denoise(
        self, known: Known, normals: Tensor, sampling: Sampling, prefix: Prefix | None
    ) -> tuple[Tensor, Tensor]:
        """The chain [B, K + 1, H, A] and its log-probabilities [B, U]."""
        steps, noisy = self.config.denoising_steps, self.config.noisy_steps
        certain = sampling.greedy or sampling.flow_noise == 0
        chain, log_probs = [normals[:, 0]], []
        for step in range(steps):
            x, index = chain[-1], torch.full((len(normals),), step, device=normals.device)
            if certain or step not in noisy:
                chain.append(matching.euler_step(x, self._certain_velocity(known, x, step / steps, prefix), steps))
                continue
            transition = self._transition(known, x, index, sampling)
            chain.append(transition.draw(normals[:, 1 + noisy.index(step)]))
            log_probs.append(transition.log_density(chain[-1]))
        units = len(noisy) * normals.shape[2]
        none = normals.new_zeros(len(normals), units)
        return torch.stack(chain, dim=1), none if certain else torch.cat(log_probs, dim=1)

    def _certain_velocity(self, known: Known, x: Tensor, time: float, prefix: Prefix | None) -> Tensor:
        """The velocity [B, H, A] at x, pulled towards a prefix where there is one."""

        def velocity(at: Tensor) -> Tensor:
            found: Tensor = self.head(known, at, x.new_full((len(x),), time))[0]
            return found

        if prefix is None:
            return velocity(x)
        targets = self.backbone.to_normalised(prefix.padded(x.shape[1])[None])
        weights = torch.from_numpy(prefix.weights(x.shape[1])).to(x)
        return guided_velocity(velocity, x, time, torch.from_numpy(targets).to(x), weights, prefix.max_guidance)

    def _transition(self, known: Known, x: Tensor, step: Tensor, sampling: Sampling) -> matching.Transition:
        """The Gaussians of `step` [B] from x [B, H, A]."""
        steps = self.config.denoising_steps
        times = step / steps
        velocity, log_factor = self.head(known, x, times)
        if log_factor is None:
            return matching.sde_step(x, velocity, times[:, None, None], steps, sampling.flow_noise)
        return matching.learned_step(x, velocity, steps, sampling.flow_noise * torch.exp(log_factor))

    # learning

    def log_prob(self, inputs: ModelInputs, decisions: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, U] and entropies [B, U] of chains [B, K + 1, H, A], differentiable.

        The backbone runs once and the head once for all noisy steps together. Raises `ReflexError` for chains of
        another shape, and for sampling without noise, which has no densities.
        """
        shape = (len(inputs), self.config.denoising_steps + 1, *self.backbone.config.chunk_shape)
        if decisions.shape != shape:
            raise ReflexError(f"denoising chains: expected {list(shape)}, got {list(decisions.shape)}")
        if sampling.greedy or sampling.flow_noise == 0:
            raise ReflexError(
                "a flow policy has log-probabilities only where its steps are noisy: set sampling.temperature and "
                "sampling.flow_noise above 0"
            )
        known = self._known(self.backbone.decision_hidden(inputs))
        chain, noisy = decisions.to(known.guess), list(self.config.noisy_steps)
        before, after = chain[:, noisy].flatten(0, 1), chain[:, [step + 1 for step in noisy]].flatten(0, 1)
        steps = torch.tensor(noisy, device=chain.device).repeat(len(inputs))
        transition = self._transition(known.repeat(len(noisy)), before, steps, sampling)
        log_probs, entropies = transition.log_density(after), transition.entropy()
        return log_probs.view(len(inputs), -1), entropies.view(len(inputs), -1)

    def imitation_loss(self, inputs: ModelInputs, actions: NDArray[np.float32]) -> tuple[Tensor, dict[str, float]]:
        """Flow-matching loss [B] on chunks of actions [B, H, A], each averaged over `loss_draws` noises and times.

        These come from torch's global generator. The loss has no known minimum: what an observation leaves open stays.
        """
        known, draws = self._known(self.backbone.decision_hidden(inputs)), self.config.loss_draws
        data = torch.from_numpy(self.backbone.to_normalised(actions)).to(known.guess).repeat_interleave(draws, 0)
        noise = torch.randn(data.shape).to(data)
        times = matching.training_times(torch.rand(len(data))).to(data)
        x = matching.interpolate(noise, data, times[:, None, None])
        velocity, _ = self.head(known.repeat(draws), x, times)
        losses = matching.squared_errors(velocity, noise, data).view(-1, draws).mean(1)
        with torch.no_grad():
            ends = x + (1.0 - times[:, None, None]) * velocity
            error = float((ends - data).abs().mean())
        return losses, {"action_error": error}

    def _known(self, hidden: Tensor) -> Known:
        return self.head.encode(hidden, self.backbone.expected_values(hidden))
