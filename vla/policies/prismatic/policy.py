"""The Prismatic policy: vision towers -> projector -> causal language model, one action chunk decoded in parallel.

The architecture of OpenVLA and OpenVLA-OFT (two towers, Llama 2 7B). Towers and language model are transformers' own
modules.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sim.embodiments import Embodiment
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.errors import ReflexError
from vla.policies.blocks.inputs import ModelInputs
from vla.policies.blocks.language import build_language_model, decode
from vla.policies.blocks.text import InstructionTokenizer, WordTokenizer
from vla.policies.blocks.vision_tower import VisionTower, build_projector, multi_layer_perceptron
from vla.policies.prismatic.configuration import PrismaticConfig
from vla.policies.tokens.policy import TokenFeatures, TokenPolicy


class PrismaticPolicy(TokenPolicy):
    """A token policy over action chunks; satisfies `vla.policies.protocol.TrainablePolicy`."""

    family = "prismatic"
    config_class = PrismaticConfig
    config: PrismaticConfig

    def __init__(
        self,
        config: PrismaticConfig,
        tokenizer: InstructionTokenizer | None = None,
        embodiment: Embodiment | None = None,
        feature_map: FeatureMap = SAME_NAMES,
    ) -> None:
        if tokenizer is None and config.tokenizer == "words":
            tokenizer = WordTokenizer()
        super().__init__(config, tokenizer, embodiment, feature_map, config.bin_layout, config.prompt_template)
        self.language_model = build_language_model(config.language_model, tokenizer)
        width = int(self.language_model.config.hidden_size)
        self.vision_towers = nn.ModuleList(VisionTower(tower, config.image_size) for tower in config.vision_towers)
        channels = sum(tower.channels for tower in self.vision_towers)  # type: ignore[misc]
        self.vision_norm = nn.LayerNorm(channels) if config.vision_norm else nn.Identity()
        self.projector = build_projector(config.projector, channels, width)
        self.camera_embedding: nn.Parameter | None = None
        if config.camera_embedding:
            shape = (len(config.cameras), config.vision_tokens, width)
            self.camera_embedding = nn.Parameter(torch.randn(shape) * config.initial_scale)
        if config.state_size:
            self.state_projector = multi_layer_perceptron([config.state_size, width, width])
        self.action_queries = nn.Parameter(torch.randn(config.num_queries, width) * config.initial_scale)
        self.action_head = nn.Linear(width, config.num_bins * config.tokens_per_chunk // config.num_queries)
        nn.init.normal_(self.action_head.weight, std=0.02)
        nn.init.zeros_(self.action_head.bias)

    def vision_parts(self) -> Sequence[nn.Module | nn.Parameter | None]:
        """Towers, norm, projector and camera embedding."""
        return [*self.vision_towers, self.vision_norm, self.projector, self.camera_embedding]

    def encoded(self, inputs: ModelInputs) -> torch.Tensor:
        """Vision tokens [B, cameras * N, D]."""
        return self.vision_tokens(inputs.images)

    def vision_tokens(self, images: torch.Tensor) -> torch.Tensor:
        """[B, cameras, S, S, 3] -> [B, cameras * N, D]. All cameras pass through the towers as one batch."""
        if images.dim() == 3:  # by `encode_vision`
            return images
        batch, cameras = images.shape[:2]
        frames = images.flatten(0, 1)
        features = [tower(frames) for tower in self.vision_towers]
        fused = features[0] if len(features) == 1 else torch.cat(features, dim=-1)
        tokens: torch.Tensor = self.projector(self.vision_norm(fused))
        if tokens.shape[1] != self.config.vision_tokens:
            expected = self.config.vision_tokens
            raise ReflexError(f"the vision towers give {tokens.shape[1]} tokens a frame; vision_tokens says {expected}")
        tokens = tokens.view(batch, cameras, -1, tokens.shape[-1])
        if self.camera_embedding is not None:
            tokens = tokens + self.camera_embedding
        return tokens.flatten(1, 2)

    def forward_features(self, inputs: ModelInputs) -> TokenFeatures:
        """Hidden states of vision tokens and action queries; the hook for auxiliary heads."""
        inputs = inputs.to(self.device)
        # Trim to the longest text of the batch; masking makes the padding's length irrelevant to the result.
        length = int(inputs.text_length.max())
        text: torch.Tensor = self.language_model.embed_tokens(inputs.text[:, :length])
        known = torch.arange(length, device=text.device) < inputs.text_length[:, None]
        vision = self.vision_tokens(inputs.images)
        middle: list[tuple[torch.Tensor, torch.Tensor | None]] = [(vision, None)]
        if self.config.state_size:
            state = self.normalised_state(inputs.state, self.config.state_clip)
            middle.append((self.state_projector(state.to(text.dtype))[:, None], None))
        first = length if self.config.prompt_order == "text_first" else 1
        hidden = decode(
            self.language_model,
            [(text[:, :first], known[:, :first]), *middle, (text[:, first:], known[:, first:])],
            self.action_queries.expand(len(inputs), -1, -1),
            self.config.attention,
        )
        return TokenFeatures(
            vision=vision,
            vision_hidden=hidden[:, first : first + vision.shape[1]],
            action_hidden=hidden[:, -self.config.num_queries :],
        )
