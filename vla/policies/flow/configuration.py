"""Configuration of the flow policy: what is above its backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vla.errors import ReflexError
from vla.policies.configuration import build
from vla.run.settings import Checks


@dataclass(frozen=True)
class FlowConfig:
    """A flow head, and how it samples. The backbone has a configuration of its own."""

    policy_id: str = ""
    """Short name written into episodes; empty for the backbone's with "-flow" behind it."""
    denoising_steps: int = 4
    """K: Euler steps from noise to actions; the head runs as often, the backbone once."""
    noise: Literal["sde", "learned"] = "sde"
    """How sampling adds noise to a step: "sde" as much as `sampling.flow_noise` and the time say, by Flow-SDE;
    "learned" what a second output of the head says, by Flow-Noise."""
    stochastic_steps: tuple[int, ...] | None = None
    """Which steps (from 0) sampling adds noise to; null for all. Only these have log-probabilities."""
    width: int = 128
    """Width of the head."""
    layers: int = 2
    """Layers of the head."""
    attention_heads: int = 4
    """Attention heads of a layer, over the actions of the chunk."""
    loss_draws: int = 8
    """Noises and times that a sample of the supervised loss is averaged over; the backbone runs once for them all."""
    action_deviation: float = 0.25
    """About how far normalised actions are from the token head's guess, by which the head's input and output are
    scaled; also the spread of a fresh head's samples."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError` naming the field."""
        check = Checks(self, "flow.")
        check.literals()
        check.at_least(1, "denoising_steps", "width", "layers", "attention_heads", "loss_draws")
        check.positive("action_deviation")
        if self.width % self.attention_heads:
            raise ReflexError(f"flow.width is {self.width}; attention_heads = {self.attention_heads} must divide it")
        steps = self.noisy_steps
        if not steps or list(steps) != sorted(set(steps)) or not 0 <= steps[0] <= steps[-1] < self.denoising_steps:
            raise ReflexError(
                f"flow.stochastic_steps is {list(steps)}; "
                f"name some of 0 .. {self.denoising_steps - 1} in order, or null"
            )

    @property
    def noisy_steps(self) -> tuple[int, ...]:
        """The steps that sampling adds noise to."""
        return tuple(range(self.denoising_steps)) if self.stochastic_steps is None else self.stochastic_steps

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FlowConfig:
        """Inverse of `to_dict`. Raises `ReflexError` naming an unknown or wrong field."""
        return build(cls, values)
