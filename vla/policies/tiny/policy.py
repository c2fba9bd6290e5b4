"""The tiny policy: a vision tower, keypoints and a small language model; localises within minutes of training.

Beside the vision tower's tokens, keypoints say where learned detectors respond, and each word of the instruction is
told where the cameras see what it names (`vla.policies.tiny.keypoints`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sim.embodiments import Embodiment
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.errors import ReflexError
from vla.policies.blocks.inputs import ModelInputs
from vla.policies.blocks.language import build_language_model, decode
from vla.policies.blocks.text import InstructionTokenizer, WordTokenizer
from vla.policies.blocks.vision_tower import VisionTower, build_projector, multi_layer_perceptron
from vla.policies.tiny.configuration import TinyConfig
from vla.policies.tiny.keypoints import KeypointTower, WordGrounding
from vla.policies.tokens.decoding import likeliest_tokens
from vla.policies.tokens.policy import TokenFeatures, TokenPolicy


@dataclass(frozen=True)
class TinyFeatures(TokenFeatures):
    """Hidden states, also for auxiliary heads."""

    word_responses: torch.Tensor | None
    """[B, cameras, P, T] how each place of each picture responds to each instruction token; None where the pictures
    were encoded before."""


@dataclass(frozen=True)
class _Seen:
    """All that later layers know of the pictures."""

    vision: torch.Tensor  # [B, cameras * N, D]
    grounding: torch.Tensor  # [B, T, D], what is added to the words' tokens
    word_responses: torch.Tensor | None = None


class TinyPolicy(TokenPolicy):
    """A token policy over action chunks; satisfies `vla.policies.protocol.TrainablePolicy`."""

    family = "tiny"
    config_class = TinyConfig
    embodiment_parts = (*TokenPolicy.embodiment_parts, "word_grounding.projection")
    config: TinyConfig

    def __init__(
        self,
        config: TinyConfig,
        tokenizer: InstructionTokenizer | None = None,
        embodiment: Embodiment | None = None,
        feature_map: FeatureMap = SAME_NAMES,
    ) -> None:
        tokenizer = tokenizer or WordTokenizer()
        super().__init__(config, tokenizer, embodiment, feature_map)
        self.language_model = build_language_model(config.language_model, tokenizer)
        width, scale = int(self.language_model.config.hidden_size), config.initial_scale
        tower = VisionTower(config.vision_tower, config.image_size)
        self.vision_towers = nn.ModuleList([tower])  # a list of one: that is what the shipped weights call it
        self.vision_norm = nn.LayerNorm(tower.channels)
        self.projector = build_projector("mlp", tower.channels, width)
        self.keypoint_tower = KeypointTower(config.image_size, config.keypoints, config.keypoint_tokens, width)
        self.word_grounding = WordGrounding(self.keypoint_tower, len(config.cameras), width, scale)
        # as large as what is added to it, so that neither a word nor its place drowns the other
        nn.init.normal_(self.language_model.embed_tokens.weight, std=scale)
        self.camera_embedding = nn.Parameter(torch.randn(len(config.cameras), config.tokens_per_camera, width) * scale)
        if config.state_size:
            self.state_projector = multi_layer_perceptron([config.state_size, width, width])
        self.action_queries = nn.Parameter(torch.randn(config.chunk_horizon, width) * scale)
        self.action_head = nn.Linear(width, config.num_bins * config.action_size)
        nn.init.normal_(self.action_head.weight, std=0.02)
        nn.init.zeros_(self.action_head.bias)

    def likeliest(self, logits: torch.Tensor) -> torch.Tensor:
        """The mode of each token after smoothing (`likeliest_tokens`)."""
        return likeliest_tokens(logits, self.config.greedy_smoothing)

    def vision_parts(self) -> Sequence[nn.Module | nn.Parameter | None]:
        """Towers, and what words look for."""
        return [
            *self.vision_towers,
            self.vision_norm,
            self.projector,
            self.keypoint_tower,
            self.word_grounding,
            self.language_model.embed_tokens,
            self.camera_embedding,
        ]

    def encoded(self, inputs: ModelInputs) -> torch.Tensor:
        """Vision tokens [B, cameras * N, D], then what is added to each of `max_text_tokens` words' tokens."""
        length = int(inputs.text_length.max())
        seen = self._see(inputs.images, self._words(inputs.text, length))
        padding = (0, 0, 0, self.config.max_text_tokens - length)  # no word is looked for beyond the longest text
        return torch.cat([seen.vision, nn.functional.pad(seen.grounding.to(seen.vision), padding)], dim=1)

    def vision_tokens(self, images: torch.Tensor) -> torch.Tensor:
        """[B, cameras, S, S, 3] -> [B, cameras * N, D]. All cameras pass through the tower as one batch."""
        frames = images.flatten(0, 1)
        return self._tokens(images.shape[0], frames, self.keypoint_tower.features(frames))

    def _tokens(self, batch: int, frames: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """Vision tokens [B, cameras * N, D] of frames [B * cameras, S, S, 3] and of their patch features."""
        tokens: torch.Tensor = self.projector(self.vision_norm(self.vision_towers[0](frames)))
        if tokens.shape[1] != self.config.vision_tokens:
            expected = self.config.vision_tokens
            raise ReflexError(f"the vision tower gives {tokens.shape[1]} tokens a frame; vision_tokens says {expected}")
        tokens = torch.cat([tokens, self.keypoint_tower(patches).to(tokens.dtype)], dim=1)
        return (tokens.view(batch, -1, *tokens.shape[1:]) + self.camera_embedding).flatten(1, 2)

    def _see(self, images: torch.Tensor, words: torch.Tensor) -> _Seen:
        """Pictures, or what `encode_vision` made of them, and embeddings of words [B, T + 1, D] to look for."""
        if images.dim() == 3:  # by `encode_vision`
            count = self.config.tokens_per_camera * len(self.config.cameras)
            return _Seen(images[:, :count], images[:, count : count + words.shape[1] - 1])
        batch, cameras = images.shape[:2]
        frames = images.flatten(0, 1)
        patches = self.keypoint_tower.features(frames)
        vision = self._tokens(batch, frames, patches)
        responses = self.word_grounding.responses(words, patches.view(batch, cameras, *patches.shape[1:]))
        return _Seen(vision, self.word_grounding(responses), responses)

    def _words(self, text: torch.Tensor, length: int) -> torch.Tensor:
        """Embeddings [B, length + 1, D] of `length` tokens and the one that follows, padding at the end of the text."""
        embeddings: torch.Tensor = self.language_model.embed_tokens(nn.functional.pad(text, (0, 1))[:, : length + 1])
        return embeddings

    def forward_features(self, inputs: ModelInputs) -> TinyFeatures:
        """Hidden states of vision tokens and action queries; the hook for auxiliary heads."""
        inputs = inputs.to(self.device)
        # Trim to the longest text of the batch; masking makes the padding's length irrelevant to the result.
        length = int(inputs.text_length.max())
        words = self._words(inputs.text, length)
        text = words[:, :length]
        seen = self._see(inputs.images, words)
        text = text + seen.grounding.to(text.dtype)
        known = torch.arange(length, device=text.device) < inputs.text_length[:, None]
        prefix: list[tuple[torch.Tensor, torch.Tensor | None]] = [(text, known), (seen.vision, None)]
        if self.config.state_size:
            state = self.normalised_state(inputs.state, self.config.state_clip)
            prefix.append((self.state_projector(state.to(text.dtype))[:, None], None))
        queries = self.action_queries.expand(len(inputs), -1, -1)
        hidden = decode(self.language_model, prefix, queries, "bidirectional")
        return TinyFeatures(
            vision=seen.vision,
            vision_hidden=hidden[:, length : length + seen.vision.shape[1]],
            action_hidden=hidden[:, -queries.shape[1] :],
            word_responses=seen.word_responses,
        )
