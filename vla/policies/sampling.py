"""How a policy's actions are drawn when it explores."""

from __future__ import annotations

from dataclasses import dataclass

from vla.errors import ReflexError


@dataclass(frozen=True)
class Sampling:
    """Of rollouts that a policy learns from, and of those that a reward is audited on."""

    temperature: float = 0.5
    """Sampling temperature of the rollouts, and of the log-probabilities in the update."""
    token_noise: float = 8.0
    """Standard deviation, in bins, of noise that sampling adds to every token; it steadies the gradient."""
    chunk_correlation: float = 0.5
    """Correlation, in [0, 1), of an action dimension's samples over the steps of a chunk: whole chunks are explored."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError`."""
        if not 0 < self.temperature < float("inf"):
            raise ReflexError(f"sampling.temperature is {self.temperature}; it must be a positive number")
        if not self.token_noise >= 0:
            raise ReflexError(f"sampling.token_noise is {self.token_noise}; it must be at least 0")
        if not 0.0 <= self.chunk_correlation < 1.0:
            raise ReflexError(f"sampling.chunk_correlation is {self.chunk_correlation}; it must lie in [0, 1)")
