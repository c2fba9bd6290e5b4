"""What the configurations of policies over action tokens have in common."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from vla.errors import ReflexError
from vla.run.settings import Checks


@dataclass(frozen=True, kw_only=True)
class TokenPolicyConfig:
    """A language model that reads vision tokens, state and instruction, and decodes a chunk of action tokens."""

    policy_id: str
    """Short name written into episodes."""
    language_model: dict[str, Any]
    """Keyword arguments of transformers' LlamaConfig; `vocab_size` is set from the tokenizer when absent."""
    image_size: int
    """Side in pixels of the square frames that the vision tower consumes."""
    vision_tokens: int
    """Tokens of the vision tower for each camera."""
    cameras: tuple[str, ...] = ("image", "wrist_image")
    """Names of the cameras, in order."""
    state_size: int = 8
    """Length of the proprioceptive state given as one token; 0 leaves it out."""
    action_size: int = 7
    """A: dimensions of one action."""
    chunk_horizon: int = 8
    """H: actions in a chunk."""
    execute_steps: int = 8
    """Actions executed before the next decision."""
    num_bins: int = 256
    """Bins per action dimension."""
    unnormalised_dimensions: tuple[int, ...] = (6,)
    """Action dimensions left in [-1, 1] as they are: the gripper."""
    state_clip: float = 2.0
    """Normalised states are clipped to +- this."""
    max_text_tokens: int = 24
    """Longer prompts are cut here."""
    initial_scale: float = 0.3
    """Standard deviation of embeddings at initialisation."""

    def __post_init__(self) -> None:
        Checks(self).literals()
        if not 1 <= self.execute_steps <= self.chunk_horizon:
            raise ReflexError(
                f"execute_steps is {self.execute_steps}; it must lie in 1 .. {self.chunk_horizon} (the chunk)"
            )
        if not self.cameras:
            raise ReflexError("cameras is empty; name at least one")

    @property
    def tokens_per_chunk(self) -> int:
        """K: action tokens in a chunk."""
        return self.chunk_horizon * self.action_size

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """H and A: actions in a chunk and dimensions of an action."""
        return self.chunk_horizon, self.action_size

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)
