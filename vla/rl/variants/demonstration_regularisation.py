"""The pull to the starting policy weakens with the demonstrations that policy was fine-tuned on.

Demonstration-regularised RL (arXiv 2310.17303). It needs `algo.kl_coefficient`. Measured from a weak start on ten
tabletop tasks, one seed (docs/results/advantages.md): within what GRPO's seeds span.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla.errors import ReflexError
from vla.rl.config import AlgoConfig
from vla.rl.method import Variant
from vla.run.settings import Checks


class DemonstrationRegularisation(Variant):
    """Divides the weight of the KL penalty."""

    @dataclass(frozen=True)
    class Settings:
        """Of `algo.variants=[demonstration_regularisation]`."""

        demonstrations: int = 30
        """How many the starting policy was fine-tuned on."""

        def __post_init__(self) -> None:
            Checks(self).at_least(1, "demonstrations")

    @classmethod
    def check_algorithm(cls, algo: AlgoConfig) -> None:
        """There must be a penalty to divide."""
        if algo.kl_coefficient == 0:
            raise ReflexError("algo.variants has demonstration_regularisation, which needs algo.kl_coefficient: set it")

    def kl_weight(self, weight: float) -> float:
        """The weight over the demonstrations."""
        return weight / int(self.settings.demonstrations)
