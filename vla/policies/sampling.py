"""How a policy's actions are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from vla.run.settings import Checks


@dataclass(frozen=True)
class Sampling:
    """Of rollouts that a policy learns from, and of those that a reward is audited on."""

    temperature: float = 0.5
    """Sampling temperature of the rollouts, and of the log-probabilities in the update; 0 is greedy. Of a flow policy,
    the share of the noise that denoising starts from."""
    token_noise: float = 8.0
    """Standard deviation, in bins, of noise that sampling adds to every token; it steadies the gradient."""
    chunk_correlation: float = 0.5
    """Correlation, at most 0.99, of an action dimension's samples over a chunk's steps: whole chunks are explored."""
    flow_noise: float = 0.25
    """Noise of a flow policy's denoising steps: Flow-SDE's level a, or the middle of Flow-Noise's deviations."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError`."""
        check = Checks(self, "sampling.")
        check.within(0, 100, "temperature")
        check.within(0, 1000, "token_noise")
        check.within(0, 0.99, "chunk_correlation")
        check.within(0, 10, "flow_noise")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest action is taken and nothing is drawn."""
        return self.temperature == 0

    @property
    def explores(self) -> bool:
        """Whether something is added to what the policy itself says at the temperature."""
        return bool(self.token_noise or self.chunk_correlation or self.flow_noise)


def as_it_is(temperature: float) -> Sampling:
    """What the policy itself says at a temperature, with nothing added that explores."""
    return Sampling(temperature, token_noise=0.0, chunk_correlation=0.0, flow_noise=0.0)


GREEDY = as_it_is(0.0)
