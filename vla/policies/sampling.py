"""How a policy's actions are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from vla.run.settings import Checks


@dataclass(frozen=True)
class Sampling:
    """Of rollouts that a policy learns from, and of those that a reward is audited on."""

    temperature: float = 0.5
    """Sampling temperature of the rollouts, and of the log-probabilities in the update; 0 is greedy."""
    token_noise: float = 8.0
    """Standard deviation, in bins, of noise that sampling adds to every token; it steadies the gradient."""
    chunk_correlation: float = 0.5
    """Correlation, at most 0.99, of an action dimension's samples over a chunk's steps: whole chunks are explored."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError`."""
        check = Checks(self, "sampling.")
        check.within(0, 100, "temperature")
        check.within(0, 1000, "token_noise")
        check.within(0, 0.99, "chunk_correlation")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest action is taken and nothing is drawn."""
        return self.temperature == 0


GREEDY = Sampling(temperature=0.0, token_noise=0.0, chunk_correlation=0.0)
