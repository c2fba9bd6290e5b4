"""The Prismatic policy: vision towers -> projector -> causal language model, one action chunk decoded in parallel.

One class for OpenVLA and OpenVLA-OFT (two towers, Llama 2 7B) and for the tiny policy trained here; only the
configuration differs. Towers and language model are transformers' own modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlamaConfig, LlamaModel

from sim.contract import Observation, ObservationBatch, stack_observations
from sim.embodiments import PANDA_EEF, Camera, Embodiment
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.errors import ReflexError
from vla.policies.action_coding import ActionCoding
from vla.policies.attention import attention_mask
from vla.policies.configuration_prismatic import PrismaticConfig
from vla.policies.decoding import (
    gaussian_rows,
    likeliest_tokens,
    log_probs_and_entropies,
    sample_chunks,
    temperature_and_noise,
    token_losses,
)
from vla.policies.keypoints import KeypointTower, WordGrounding
from vla.policies.observations import as_observation
from vla.policies.processing_prismatic import InstructionTokenizer, ModelInputs, PrismaticProcessor, WordTokenizer
from vla.policies.protocol import PolicyOutput, PolicySpec
from vla.policies.sampling import GREEDY, Sampling
from vla.policies.storage import read_description, read_into, read_surroundings, write_policy
from vla.policies.vision_tower import VisionTower, build_projector, multi_layer_perceptron
from vla.run.devices import autocast, computes_bfloat16


@dataclass(frozen=True)
class PrismaticFeatures:
    """Hidden states for auxiliary heads, D the language model's width."""

    vision: torch.Tensor
    """[B, cameras * N, D] projected vision tokens, before the language model (camera-major)."""
    vision_hidden: torch.Tensor
    """[B, cameras * N, D] the same positions after the language model."""
    action_hidden: torch.Tensor
    """[B, Q, D] action-query hidden states."""
    word_responses: torch.Tensor | None
    """[B, cameras, P, T] how each place of each picture responds to each instruction token; None without words'
    detectors, or where the pictures were encoded before."""


@dataclass(frozen=True)
class _Seen:
    """All that later layers know of the pictures."""

    vision: torch.Tensor  # [B, cameras * N, D]
    grounding: torch.Tensor | None  # [B, T, D], what is added to the words' tokens
    word_responses: torch.Tensor | None = None


class PrismaticPolicy(ActionCoding):
    """A token policy over action chunks; satisfies `vla.policies.protocol.Policy`."""

    def __init__(
        self,
        config: PrismaticConfig,
        tokenizer: InstructionTokenizer | None = None,
        embodiment: Embodiment | None = None,
        feature_map: FeatureMap = SAME_NAMES,
    ) -> None:
        """Random weights. Without an `embodiment`, for `PANDA_EEF` with the configuration's cameras."""
        super().__init__(config, _checked_embodiment(config, embodiment))
        self.feature_map = feature_map
        self.label_sigma = 1.0
        if tokenizer is None and config.tokenizer == "words":
            tokenizer = WordTokenizer()
        self.processor = PrismaticProcessor(config, tokenizer) if tokenizer is not None else None

        language_model = dict(config.language_model)
        if tokenizer is not None:
            language_model.setdefault("vocab_size", tokenizer.vocab_size)
        self.language_model = LlamaModel(LlamaConfig(**language_model, use_cache=False))
        width = int(self.language_model.config.hidden_size)

        self.vision_towers = nn.ModuleList(VisionTower(tower, config.image_size) for tower in config.vision_towers)
        channels = sum(tower.channels for tower in self.vision_towers)  # type: ignore[misc]
        self.vision_norm = nn.LayerNorm(channels) if config.vision_norm else nn.Identity()
        self.projector = build_projector(config.projector, channels, width)
        self.keypoint_tower = None
        if config.keypoints:
            self.keypoint_tower = KeypointTower(config.image_size, config.keypoints, config.keypoint_tokens, width)
        self.word_grounding = None
        if config.ground_words and self.keypoint_tower is not None:
            self.word_grounding = WordGrounding(self.keypoint_tower, len(config.cameras), width, config.initial_scale)
            # as large as what is added to it, so that neither a word nor its place drowns the other
            nn.init.normal_(self.language_model.embed_tokens.weight, std=config.initial_scale)
        if config.camera_embedding:
            shape = (len(config.cameras), config.tokens_per_camera, width)
            self.camera_embedding = nn.Parameter(torch.randn(shape) * config.initial_scale)
        if config.state_size:
            self.state_projector = multi_layer_perceptron([config.state_size, width, width])
        self.action_queries = nn.Parameter(torch.randn(config.num_queries, width) * config.initial_scale)
        self.action_head = nn.Linear(width, config.num_bins * config.tokens_per_chunk // config.num_queries)
        nn.init.normal_(self.action_head.weight, std=0.02)
        nn.init.zeros_(self.action_head.bias)

        self._precision = "float32"
        self._vision_is_frozen = False

    @classmethod
    def from_config(
        cls,
        config: PrismaticConfig,
        tokenizer: InstructionTokenizer | None = None,
        embodiment: Embodiment | None = None,
    ) -> PrismaticPolicy:
        """A policy with random weights (seed with `torch.manual_seed`)."""
        return cls(config, tokenizer, embodiment)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> PrismaticPolicy:
        """Read a folder written by `save_pretrained`. Raises `ReflexError` naming the file at fault."""
        policy = cls(*read_description(Path(folder)), *read_surroundings(Path(folder)))
        read_into(policy, Path(folder))
        return policy.to(device).eval()

    def load_weights_from(self, folder: str | Path) -> None:
        """Take weights and normalisation of a folder written by a policy of the same configuration, in place."""
        read_into(self, Path(folder))

    def save_pretrained(self, folder: str | Path, dtype: str | None = None) -> None:
        """Write config.json, tokenizer, normalisation.json and model.safetensors, replacing the folder atomically.

        `dtype` ("float16", "bfloat16", "float32") sets the stored precision; None keeps the parameters' own.
        """
        if self.processor is None:
            raise ReflexError(f"policy {self.policy_id} has no tokenizer and cannot be saved; pass one to from_config")
        write_policy(self, self.processor.tokenizer, Path(folder), dtype)

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

    # network

    def prepare(self, observations: ObservationBatch) -> ModelInputs:
        """Observations to tensors on the CPU; index them for minibatches. Raises `ReflexError` on bad input."""
        if self.processor is None:
            raise ReflexError(f"policy {self.policy_id} has no tokenizer; pass one to from_config")
        return self.processor(observations, self.feature_map)

    def set_precision(self, precision: str) -> None:
        """Compute in "float32", in "bfloat16", or in what suits the device ("auto"); parameters stay as they are."""
        self._precision = "bfloat16" if computes_bfloat16(self.device, precision) else "float32"
        # In bfloat16 on a CPU the fused attention's backward pass is slower than all matrix products together.
        slow = self._precision == "bfloat16" and self.device.type == "cpu"
        self.language_model.set_attn_implementation("eager" if slow else "sdpa")

    def freeze_vision(self) -> None:
        """Let only what follows the vision tokens learn; `encode_vision` then replaces the pictures for good."""
        modules = [*self.vision_towers, self.vision_norm, self.projector, self.keypoint_tower]
        if self.word_grounding is not None:
            modules += [self.word_grounding, self.language_model.embed_tokens]
        for module in modules:
            if module is not None:
                module.requires_grad_(False)
        if self.config.camera_embedding:
            self.camera_embedding.requires_grad_(False)
        self._vision_is_frozen = True

    @torch.no_grad()
    def encode_vision(self, inputs: ModelInputs, batch_size: int = 32) -> ModelInputs:
        """The same samples with their pictures replaced by all that is seen in them, on the inputs' device.

        `images` is then [B, cameras * N, D], vision tokens; where words have detectors, `max_text_tokens` more: what is
        added to each word's token. Inputs that were encoded before are returned as they are.
        """
        if inputs.images.dim() == 3:
            return inputs
        device, parts, length = inputs.images.device, [], int(inputs.text_length.max())
        padding = (0, 0, 0, self.config.max_text_tokens - length)  # no word is looked for beyond the longest text
        with autocast(self.device, self._precision):
            for first in range(0, len(inputs), batch_size):
                part = inputs[first : first + batch_size].to(self.device)
                seen = self._see(part.images, self._words(part.text, length))
                tokens = [seen.vision]
                if seen.grounding is not None:
                    tokens.append(nn.functional.pad(seen.grounding.to(seen.vision), padding))
                parts.append(torch.cat(tokens, dim=1).to(device))
        return inputs.with_images(torch.cat(parts))

    def vision_tokens(self, images: torch.Tensor) -> torch.Tensor:
        """[B, cameras, S, S, 3] -> [B, cameras * N, D]. All cameras pass through the towers as one batch."""
        return self._see(images, None).vision

    def _see(self, images: torch.Tensor, words: torch.Tensor | None) -> _Seen:
        """Pictures, or what `encode_vision` made of them, and embeddings of words [B, T + 1, D] to look for, if any."""
        if images.dim() == 3:  # by `encode_vision`
            count = self.config.tokens_per_camera * len(self.config.cameras)
            vision, added = images[:, :count], images[:, count:]
            return _Seen(vision, added[:, : words.shape[1] - 1] if words is not None and added.shape[1] else None)
        batch, cameras = images.shape[:2]
        frames = images.flatten(0, 1)
        features = [tower(frames) for tower in self.vision_towers]
        fused = features[0] if len(features) == 1 else torch.cat(features, dim=-1)
        tokens: torch.Tensor = self.projector(self.vision_norm(fused))
        if tokens.shape[1] != self.config.vision_tokens:
            expected = self.config.vision_tokens
            raise ReflexError(f"the vision towers give {tokens.shape[1]} tokens a frame; vision_tokens says {expected}")
        grounding: torch.Tensor | None = None
        responses: torch.Tensor | None = None
        if self.keypoint_tower is not None:
            patches = self.keypoint_tower.features(frames)
            tokens = torch.cat([tokens, self.keypoint_tower(patches).to(tokens.dtype)], dim=1)
            if self.word_grounding is not None and words is not None:
                responses = self.word_grounding.responses(words, patches.view(batch, cameras, *patches.shape[1:]))
                grounding = self.word_grounding(responses)
        tokens = tokens.view(batch, cameras, -1, tokens.shape[-1])
        if self.config.camera_embedding:
            tokens = tokens + self.camera_embedding
        return _Seen(tokens.flatten(1, 2), grounding, responses)

    def _words(self, text: torch.Tensor, length: int) -> torch.Tensor:
        """Embeddings [B, length + 1, D] of `length` tokens and the one that follows, padding at the end of the text."""
        embeddings: torch.Tensor = self.language_model.embed_tokens(nn.functional.pad(text, (0, 1))[:, : length + 1])
        return embeddings

    def forward_features(self, inputs: ModelInputs) -> PrismaticFeatures:
        """Hidden states of vision tokens and action queries; the hook for auxiliary heads."""
        inputs = inputs.to(self.device)
        batch = len(inputs)
        # Trim to the longest text of the batch; masking makes the padding's length irrelevant to the result.
        text_length = int(inputs.text_length.max())
        words = self._words(inputs.text, text_length)
        text = words[:, :text_length]
        text_valid = torch.arange(text_length, device=text.device) < inputs.text_length[:, None]
        seen = self._see(inputs.images, words)
        if seen.grounding is not None:
            text = text + seen.grounding.to(text.dtype)
        middle = [seen.vision]
        if self.config.state_size:
            low, high = self.state_low, self.state_high
            state = 2.0 * (inputs.state - low) / (high - low + 1e-8) - 1.0
            state = state.clamp(-self.config.state_clip, self.config.state_clip)
            middle.append(self.state_projector(state.to(text.dtype))[:, None])
        first = text_length if self.config.prompt_order == "text_first" else 1
        queries = self.action_queries.expand(batch, -1, -1)
        sequence = torch.cat([text[:, :first], *middle, text[:, first:], queries], dim=1)
        ones = text_valid.new_ones(batch, sum(part.shape[1] for part in middle))
        query_valid = text_valid.new_ones(batch, queries.shape[1])
        valid = torch.cat([text_valid[:, :first], ones, text_valid[:, first:], query_valid], dim=1)
        hidden = self.language_model(
            inputs_embeds=sequence,
            attention_mask=self._language_model_mask(valid, queries.shape[1], sequence.dtype),
            position_ids=valid.long().cumsum(1) - 1,
        ).last_hidden_state
        return PrismaticFeatures(
            vision=seen.vision,
            vision_hidden=hidden[:, first : first + seen.vision.shape[1]],
            action_hidden=hidden[:, -queries.shape[1] :],
            word_responses=seen.word_responses,
        )

    def _language_model_mask(self, valid: torch.Tensor, num_queries: int, dtype: torch.dtype) -> torch.Tensor:
        mask = attention_mask(valid, num_queries, self.config.attention)
        if self.language_model.config._attn_implementation == "sdpa":
            return mask
        # transformers' eager attention adds its mask to the scores, so a boolean one would mask nothing
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

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
            tokens = likeliest_tokens(logits, self.config.greedy_smoothing)
        else:
            tokens = sample_chunks(logits, sampling, generators, self.config.chunk_shape)
        log_probs, _ = log_probs_and_entropies(logits, tokens, *temperature_and_noise(sampling))
        chosen = tokens.cpu().numpy()
        return PolicyOutput(self.detokenize(chosen), chosen, log_probs.cpu().numpy(), _mean_query(hidden), inputs)

    def select_action(self, observation: Observation | Mapping[str, Any]) -> NDArray[np.float32]:
        """The greedy chunk [H, A] after one observation, ours or a LeRobot dataset's (`as_observation`)."""
        chunk: NDArray[np.float32] = self.act(stack_observations([as_observation(observation)])).actions[0]
        return chunk

    @torch.no_grad()
    def features_from_inputs(self, inputs: ModelInputs, batch_size: int = 256) -> NDArray[np.float32]:
        """[B, D] mean hidden state of the action queries: what the policy makes of what it sees before it acts."""
        parts = [inputs[first : first + batch_size] for first in range(0, len(inputs), batch_size)]
        return np.concatenate([_mean_query(self.decision_hidden(part)) for part in parts])

    def inputs_to_decide(self, observations: ObservationBatch) -> ModelInputs:
        """`prepare`; and once vision is frozen, for good: whoever learns from this decision need not look again."""
        inputs = self.prepare(observations)
        return self.encode_vision(inputs) if self._vision_is_frozen else inputs

    def decision_hidden(self, inputs: ModelInputs) -> torch.Tensor:
        """[B, Q, D] hidden states of the action queries, in the precision of `set_precision`."""
        with autocast(self.device, self._precision):
            return self.forward_features(inputs).action_hidden

    def log_prob(
        self, inputs: ModelInputs, decisions: torch.Tensor, sampling: Sampling = GREEDY
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
        self, features: PrismaticFeatures, actions: NDArray[np.float32]
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


def _mean_query(action_hidden: torch.Tensor) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = action_hidden.mean(dim=1).float().cpu().numpy()
    return mean


def _checked_embodiment(config: PrismaticConfig, embodiment: Embodiment | None) -> Embodiment:
    """What the policy is for, with the picture size that its network takes. Raises `ReflexError` for a mismatch."""
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
