"""A moving average of the weights: what a run evaluates and keeps, while the weights themselves go on learning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from vla.errors import restoring

WEIGHTS_FILE = "weights.pt"
"""In a checkpoint: the weights that go on learning."""


class WeightAverage:
    """Exponential moving average of trainable parameters over a run's iterations.

    Each iteration's update follows a noisy gradient, so the policies of neighbouring iterations differ by noise; their
    mean has less of it (Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992).
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._average = [parameter.detach().clone() for parameter in self._parameters]

    def update(self, iteration: int) -> None:
        """Take in the weights after `iteration` (1 is the first).

        The first 1 / (1 - decay) iterations are averaged evenly, so that the starting weights have no part in it.
        """
        decay = min(self.decay, 1.0 - 1.0 / iteration)
        for average, parameter in zip(self._average, self._parameters, strict=True):
            average.lerp_(parameter.detach(), 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The average in the parameters' place, and the parameters back afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for index, parameter in enumerate(self._parameters):
            self._average[index], parameter.data = parameter.data, self._average[index]

    def save_weights(self, folder: Path) -> None:
        """Write the parameters (not their average, which is the policy's to save) into a folder."""
        torch.save([parameter.detach() for parameter in self._parameters], folder / WEIGHTS_FILE)

    def load_weights(self, folder: Path) -> None:
        """Take what the parameters hold now as the average, and read the parameters. Raises `ReflexError`."""
        path = folder / WEIGHTS_FILE
        with restoring(path), torch.no_grad():
            stored = torch.load(path, weights_only=True, map_location="cpu")
            for average, parameter, value in zip(self._average, self._parameters, stored, strict=True):
                average.copy_(parameter)
                parameter.copy_(value)
