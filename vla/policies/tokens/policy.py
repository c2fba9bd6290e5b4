"""What policies over action tokens share, whatever network the tokens' logits come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlamaModel

from sim.contract import Observation, ObservationBatch
from sim.embodiments import PANDA_EEF, Camera, Embodiment
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.errors import ReflexError
from vla.policies.adaptation import gripper_as_it_is, take_over, what_differs
from vla.policies.blocks.inputs import ModelInputs, Processor
from vla.policies.blocks.language import set_attention_for
from vla.policies.blocks.text import InstructionTokenizer
from vla.policies.observations import greedy_chunk
from vla.policies.protocol import Adapted, PolicyOutput, PolicySpec
from vla.policies.sampling import GREEDY, Sampling
from vla.policies.tokens.coding import ActionCoding
from vla.policies.tokens.configuration import TokenPolicyConfig
from vla.policies.tokens.decoding import (
    gaussian_rows,
    log_probs_and_entropies,
    sample_chunks,
    temperature_and_noise,
    token_losses,
)
from vla.policies.tokens.storage import read_folder, read_into, write_folder
from vla.policies.tokens.tokenizer import BinLayout
from vla.run.devices import autocast, computes_bfloat16


@dataclass(frozen=True)
class TokenFeatures:
    """Hidden states, also for auxiliary heads; D is the language model's width."""

    vision: torch.Tensor
    """[B, cameras * N, D] vision tokens, before the language model (camera-major)."""
    vision_hidden: torch.Tensor
    """[B, cameras * N, D] the same positions after the language model."""
    action_hidden: torch.Tensor
    """[B, Q, D] action-query hidden states."""


class TokenPolicy(ActionCoding):
    """A policy over action tokens; a family adds the network, and satisfies `vla.policies.protocol.TrainablePolicy`."""

    family: ClassVar[str]
    """What its folders' config.json call it."""
    config_class: ClassVar[type[Any]]
    embodiment_parts: ClassVar[tuple[str, ...]] = (
        "state_projector",
        "action_head",
        "action_queries",
        "camera_embedding",
    )
    """Parts whose shapes depend on cameras, state, action or chunk, by the beginning of their weights' names."""
    config: Any
    language_model: LlamaModel
    action_head: nn.Linear
    action_queries: nn.Parameter

    def __init__(
        self,
        config: TokenPolicyConfig,
        tokenizer: InstructionTokenizer | None,
        embodiment: Embodiment | None,
        feature_map: FeatureMap,
        bin_layout: BinLayout = "uniform",
        prompt_template: str = "{instruction}",
    ) -> None:
        """Without an `embodiment`, for `PANDA_EEF` with the configuration's cameras."""
        super().__init__(config, checked_embodiment(config, embodiment), bin_layout)
        self.config, self.feature_map, self.label_sigma = config, feature_map, 1.0
        self.processor: Processor | None = None
        if tokenizer is not None:
            self.processor = Processor(
                tokenizer,
                config.cameras,
                config.image_size,
                config.state_size,
                config.max_text_tokens,
                prompt_template,
            )
        self._precision = "float32"
        self._vision_is_frozen = False

    # what a family adds

    @abstractmethod
    def forward_features(self, inputs: ModelInputs) -> TokenFeatures:
        """Hidden states of vision tokens and action queries."""

    @abstractmethod
    def vision_parts(self) -> Sequence[nn.Module | nn.Parameter | None]:
        """All that turns pictures into vision tokens."""

    @abstractmethod
    def encoded(self, inputs: ModelInputs) -> torch.Tensor:
        """What `encode_vision` puts in the pictures' place [B, L, D], from inputs on the policy's device."""

    def likeliest(self, logits: torch.Tensor) -> torch.Tensor:
        """The greedy decision: tokens [B, K] from logits [B, K, bins]."""
        return logits.argmax(-1)

    # folders

    @classmethod
    def from_config(
        cls, config: Any, tokenizer: InstructionTokenizer | None = None, embodiment: Embodiment | None = None
    ) -> Self:
        """A policy with random weights (seed with `torch.manual_seed`)."""
        return cls(config, tokenizer, embodiment, SAME_NAMES)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> Self:
        """Read a folder written by `save_pretrained`. Raises `ReflexError` naming the file at fault."""
        policy = cls(*read_folder(Path(folder), cls.config_class))
        read_into(policy, Path(folder))
        return policy.to(device).eval()

    def load_weights_from(self, folder: str | Path) -> None:
        """Take weights and normalisation of a folder written by a policy of the same configuration, in place."""
        read_into(self, Path(folder))

    def save_pretrained(self, folder: str | Path, dtype: str | None = None) -> None:
        """Write config.json, embodiment, tokenizer, normalisation and weights, replacing the folder atomically.

        `dtype` ("float16", "bfloat16", "float32") sets the stored precision; None keeps the parameters' own.
        """
        if self.processor is None:
            raise ReflexError(f"policy {self.policy_id} has no tokenizer and cannot be saved; pass one to from_config")
        config = {"family": self.family, **self.config.to_dict()}
        write_folder(self, config, self.feature_map, self.processor.tokenizer, Path(folder), dtype)

    def adapt(
        self, embodiment: Embodiment, *, chunk_horizon: int | None = None, execute_steps: int | None = None
    ) -> Adapted:
        """See `AdaptablePolicy.adapt`; seed the fresh weights with `torch.manual_seed`.

        Quantiles of states and actions are taken over where both are the same as before.
        """
        new_state, new_action = what_differs(self.embodiment, embodiment)
        horizon = chunk_horizon or self.config.chunk_horizon
        config = replace(
            self.config,
            cameras=embodiment.camera_names,
            state_size=embodiment.state.size if self.config.state_size else 0,
            action_size=embodiment.action.size,
            chunk_horizon=horizon,
            execute_steps=execute_steps or min(self.config.execute_steps, horizon),
            unnormalised_dimensions=gripper_as_it_is(embodiment) if new_action else self.config.unnormalised_dimensions,
        )
        tokenizer = None if self.processor is None else self.processor.tokenizer
        policy = type(self)(config, tokenizer, embodiment, SAME_NAMES)
        parts = dict.fromkeys(self.embodiment_parts, False) | {"state_projector": new_state, "action_head": new_action}
        taken, fresh = take_over(policy, self, parts)
        if self.has_normalisation and not (new_state or new_action):
            policy.set_normalisation(**vars(self.normalisation))
        return Adapted(policy.to(self.device).eval(), tuple(taken), tuple(fresh))

    # description

    @property
    def policy_id(self) -> str:
        """Short name written into episodes."""
        return str(self.config.policy_id)

    @policy_id.setter
    def policy_id(self, name: str) -> None:
        self.config = replace(self.config, policy_id=name)

    @property
    def spec(self) -> PolicySpec:
        """What the policy sees and emits."""
        config = self.config
        return PolicySpec(
            embodiment=self.embodiment,
            uses_state=config.state_size > 0,
            chunk_horizon=config.chunk_horizon,
            execute_steps=config.execute_steps,
            unit_steps=tuple(step for step in range(config.chunk_horizon) for _ in range(config.action_size)),
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.action_queries.device

    # inputs and precision

    def prepare(self, observations: ObservationBatch) -> ModelInputs:
        """Observations to tensors on the CPU; index them for minibatches. Raises `ReflexError` on bad input."""
        if self.processor is None:
            raise ReflexError(f"policy {self.policy_id} has no tokenizer; pass one to from_config")
        return self.processor(observations, self.feature_map)

    def set_precision(self, precision: str) -> None:
        """Compute in "float32", in "bfloat16", or in what suits the device ("auto"); parameters stay as they are."""
        self._precision = "bfloat16" if computes_bfloat16(self.device, precision) else "float32"
        set_attention_for(self.language_model, self._precision, self.device)

    def freeze_vision(self) -> None:
        """Let only what follows the vision tokens learn; `encode_vision` then replaces the pictures for good."""
        for part in self.vision_parts():
            if part is not None:
                part.requires_grad_(False)
        self._vision_is_frozen = True

    @torch.no_grad()
    def encode_vision(self, inputs: ModelInputs, batch_size: int = 32) -> ModelInputs:
        """The same samples with their pictures replaced by all that is seen in them, on the inputs' device.

        `images` is then [B, L, D]: vision tokens, and what else a family makes of pictures. Inputs that were encoded
        before are returned as they are.
        """
        if inputs.images.dim() == 3:
            return inputs
        device = inputs.images.device
        with autocast(self.device, self._precision):
            parts = [
                self.encoded(inputs[first : first + batch_size].to(self.device)).to(device)
                for first in range(0, len(inputs), batch_size)
            ]
        return inputs.with_images(torch.cat(parts))

    # decisions

    def action_logits(self, action_hidden: torch.Tensor) -> torch.Tensor:
        """Query hidden states [B, Q, D] -> logits [B, K, bins]."""
        logits: torch.Tensor = self.action_head(action_hidden)
        return logits.reshape(len(logits), self.config.tokens_per_chunk, self.config.num_bins)

    def expected_values(self, action_hidden: torch.Tensor) -> torch.Tensor:
        """Query hidden states [B, Q, D] -> means [B, H, A] of the tokens' distributions, normalised, in float32."""
        with autocast(self.device, self._precision):
            logits = self.action_logits(action_hidden)
        centres = torch.from_numpy(self.action_tokenizer.centres).to(logits.device, torch.float32)
        means = torch.softmax(logits.float(), dim=-1) @ centres
        return means.view(len(means), *self.config.chunk_shape)

    def forward(self, inputs: ModelInputs) -> torch.Tensor:
        """Logits [B, K, bins], in the precision of `set_precision`."""
        with autocast(self.device, self._precision):
            return self.action_logits(self.forward_features(inputs).action_hidden)

    @torch.no_grad()
    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        """Decide for B environments by tokens [B, H * A]; see `Policy.act`.

        Greedy log-probabilities are at temperature 1. Raises `ReflexError` for missing generators, bad observations or
        non-finite logits.
        """
        inputs = self.inputs_to_decide(observations)
        hidden = self.decision_hidden(inputs)
        with autocast(self.device, self._precision):
            logits = self.action_logits(hidden)
        self._check_logits(logits)
        if sampling.greedy:
            tokens = self.likeliest(logits)
        else:
            tokens = sample_chunks(logits, sampling, generators, self.config.chunk_shape)
        log_probs, _ = log_probs_and_entropies(logits, tokens, *temperature_and_noise(sampling))
        chosen = tokens.cpu().numpy()
        return PolicyOutput(self.detokenize(chosen), chosen, log_probs.cpu().numpy(), _mean_query(hidden), inputs)

    def select_action(self, observation: Observation | Mapping[str, Any]) -> NDArray[np.float32]:
        """The greedy chunk [H, A] after one observation, ours or a LeRobot dataset's (`as_observation`)."""
        return greedy_chunk(self, observation)

    @torch.no_grad()
    def features_from_inputs(self, inputs: ModelInputs, batch_size: int = 256) -> NDArray[np.float32]:
        """[B, D] mean hidden state of the action queries: what the policy makes of what it sees before it acts."""
        parts = [inputs[first : first + batch_size] for first in range(0, len(inputs), batch_size)]
        return np.concatenate([_mean_query(self.decision_hidden(part)) for part in parts])

    def inputs_to_decide(self, observations: ObservationBatch) -> ModelInputs:
        """`prepare`; once vision is frozen, with it, for good: whoever learns from a decision need not look again."""
        inputs = self.prepare(observations)
        return self.encode_vision(inputs) if self._vision_is_frozen else inputs

    def decision_hidden(self, inputs: ModelInputs) -> torch.Tensor:
        """[B, Q, D] hidden states of the action queries, in the precision of `set_precision`."""
        with autocast(self.device, self._precision):
            return self.forward_features(inputs).action_hidden

    def log_prob(
        self, inputs: ModelInputs, decisions: torch.Tensor, sampling: Sampling
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies [B, H * A] of tokens [B, H * A], differentiable."""
        if decisions.shape != (len(inputs), self.config.tokens_per_chunk):
            expected = [len(inputs), self.config.tokens_per_chunk]
            raise ReflexError(f"tokens: expected {expected}, got {list(decisions.shape)}")
        logits = self(inputs)
        self._check_logits(logits)
        return log_probs_and_entropies(logits, decisions.to(logits.device), *temperature_and_noise(sampling))

    def imitation_loss(
        self, inputs: ModelInputs, actions: NDArray[np.float32]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Divergence [B] from soft targets about the actions' bins, and how near the likeliest bins are."""
        with autocast(self.device, self._precision):
            return self.imitation_loss_from_features(self.forward_features(inputs), actions)

    def imitation_loss_from_features(
        self, features: TokenFeatures, actions: NDArray[np.float32]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """`imitation_loss` on hidden states, for whoever has auxiliary heads on them."""
        tokens = torch.from_numpy(self.tokenize_actions(actions)).to(self.device)
        logits = self.action_logits(features.action_hidden)
        targets = gaussian_rows(self.config.num_bins, self.label_sigma).to(self.device)
        distance = (logits.detach().argmax(-1) - tokens).abs().float()
        return token_losses(logits, tokens, targets), {
            "token_accuracy": float((distance == 0).float().mean()),
            "bin_distance": float(distance.mean()),
        }

    def _check_logits(self, logits: torch.Tensor) -> None:
        if not torch.isfinite(logits.detach().sum()):
            raise ReflexError(
                f"policy {self.policy_id} produced NaN or infinite logits; its weights have diverged "
                "(lower the learning rate, or load an earlier checkpoint)"
            )


def checked_embodiment(config: TokenPolicyConfig, embodiment: Embodiment | None) -> Embodiment:
    """What a policy is for, with the picture size that its network takes. Raises `ReflexError` for a mismatch."""
    if embodiment is None:
        cameras = tuple(Camera(name, config.image_size, config.image_size) for name in config.cameras)
        embodiment = replace(PANDA_EEF, cameras=cameras)
    fits = (
        embodiment.camera_names == config.cameras
        and config.state_size in (0, embodiment.state.size)
        and embodiment.action.size == config.action_size
    )
    if not fits:
        raise ReflexError(
            f"the configuration has cameras {', '.join(config.cameras)}, a state of {config.state_size} and actions of "
            f"{config.action_size}; the embodiment is {embodiment.describe()}"
        )
    return embodiment.with_image_size(config.image_size)


def _mean_query(action_hidden: torch.Tensor) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = action_hidden.mean(dim=1).float().cpu().numpy()
    return mean
