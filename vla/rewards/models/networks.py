"""The networks of a reward model. An ensemble is one network whose parameters have an axis more."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from vla.errors import ReflexError

NetworkKind = Literal["cnn", "mlp"]
"""Networks that preferences are fitted to."""

CHANNELS, KERNELS, STRIDES = (16, 32, 64, 128), (5, 3, 3, 3), (3, 2, 2, 2)
"""The convolutions of RL-VLM-F (arXiv 2402.03681), without padding."""

SMALLEST_PICTURE = 47
"""Pixels a side below which nothing is left after the convolutions."""

GOAL_SIZE, TEMPERATURE = 32, 0.1
"""Length of the vectors that moments and goals are compared by, and what their cosine is divided by."""


class _Layer(nn.Module):
    """One layer for each of M members, initialised as torch initialises its own."""

    def __init__(self, members: int, outputs: int, *inputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(math.prod(inputs))
        self.weight = nn.Parameter(torch.empty(members, outputs, *inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def linear(self, rows: torch.Tensor) -> torch.Tensor:
        """[M, B, inputs] -> [M, B, outputs]"""
        return torch.baddbmm(self.bias.unsqueeze(1), rows, self.weight.transpose(1, 2))

    def convolve(self, pictures: torch.Tensor, stride: int) -> torch.Tensor:
        """[B, M * channels, H, W] -> [B, M * outputs, h, w]: a group of channels is a member."""
        return functional.conv2d(
            pictures, self.weight.flatten(0, 1), self.bias.flatten(), stride=stride, groups=len(self.weight)
        )


class MlpEnsemble(nn.Module):
    """Two hidden layers on standardised features."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, members: int, inputs: int, hidden: int = 256, outputs: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [_Layer(members, hidden, inputs), _Layer(members, hidden, hidden), _Layer(members, outputs, hidden)]
        )
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))

    def standardise_by(self, features: torch.Tensor) -> None:
        """Take mean and deviation of features [N, F]; one that never changes stays as it is."""
        deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6 * mean.abs().clamp(min=1), deviation, 1.0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[M, B, F] -> [M, B]"""
        return self.vectors(features).squeeze(-1)

    def directions(self, features: torch.Tensor) -> torch.Tensor:
        """[M, B, F] -> [M, B, outputs], each of length 1."""
        return functional.normalize(self.vectors(features), dim=-1)

    def vectors(self, features: torch.Tensor) -> torch.Tensor:
        """[M, B, F] -> [M, B, outputs]"""
        rows = (features - self.mean) / self.deviation
        first, second, last = self.layers
        rows = functional.relu(first.linear(rows))  # type: ignore[operator]  # ModuleList forgets the class
        rows = functional.relu(second.linear(rows))  # type: ignore[operator]
        values: torch.Tensor = last.linear(rows)  # type: ignore[operator]
        return values


class CnnEnsemble(nn.Module):
    """The paper's convolutions and one linear layer, on pictures of any size of 47 pixels or more."""

    def __init__(self, members: int, height: int, width: int) -> None:
        super().__init__()
        if min(height, width) < SMALLEST_PICTURE:
            raise ReflexError(
                f"network=cnn needs pictures of {SMALLEST_PICTURE} pixels or more a side, not {height}x{width}; use "
                "network=mlp, or record larger ones"
            )
        channels = (3, *CHANNELS)
        self.convolutions = nn.ModuleList(
            [
                _Layer(members, outputs, inputs, kernel, kernel)
                for inputs, outputs, kernel in zip(channels[:-1], CHANNELS, KERNELS, strict=True)
            ]
        )
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        self.members = members
        self.last = _Layer(members, 1, CHANNELS[-1] * height * width)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 [M, B, H, W, 3] -> [M, B]"""
        members, batch, height, width, _ = pictures.shape
        planes = pictures.permute(1, 0, 4, 2, 3).reshape(batch, members * 3, height, width).float() / 255
        for layer, stride in zip(self.convolutions, STRIDES, strict=True):
            planes = functional.relu(layer.convolve(planes, stride))  # type: ignore[operator]
        values = self.last.linear(planes.reshape(batch, members, -1).transpose(0, 1))
        return values.squeeze(-1)


class GoalEnsemble(nn.Module):
    """Two towers: what a moment leads to, and what a goal is; the nearer, the likelier the goal comes after the moment.

    Contrastive reinforcement learning (arXiv 2206.07568) without actions.
    """

    goals: torch.Tensor

    def __init__(self, members: int, inputs: int, goals: int, hidden: int = 256, size: int = GOAL_SIZE) -> None:
        super().__init__()
        self.moments = MlpEnsemble(members, inputs, hidden, size)
        self.ends = MlpEnsemble(members, inputs, hidden, size)
        self.register_buffer("goals", torch.zeros(goals, inputs))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[M, B, F] -> [M, B]: over the goals that were kept, the logarithm of the mean likelihood ratio."""
        goals = self.ends.directions(self.goals.expand(len(features), *self.goals.shape))
        logits = torch.bmm(self.moments.directions(features), goals.transpose(1, 2)) / TEMPERATURE
        return logits.logsumexp(dim=-1) - math.log(len(self.goals))


class NearestCentre(nn.Module):
    """SRPO's distance for single moments: how far it is to the nearest of some centres, negative. Nothing is fitted."""

    centres: torch.Tensor

    def __init__(self, inputs: int, centres: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(centres, inputs))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[1, B, F] -> [1, B]"""
        return -torch.cdist(features, self.centres.unsqueeze(0)).amin(dim=-1)


def standardise(network: nn.Module, features: torch.Tensor) -> None:
    """Let every part of a network that standardises its inputs do so by features [N, F]."""
    for part in network.modules():
        if isinstance(part, MlpEnsemble):
            part.standardise_by(features)
