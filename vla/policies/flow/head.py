"""The flow head: a small transformer over a chunk's noisy actions that gives their velocity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla.errors import ReflexError
from vla.policies.flow.configuration import FlowConfig

TIME_FREQUENCIES = 8
"""Sines and cosines that a time is given as."""

NOISE_SPREAD = 2.0
"""A learned deviation lies within this factor of the one that sampling asks for; pi_RL's range 0.08 .. 0.16 has the
same ratio of ends to middle, squared."""


@dataclass(frozen=True)
class Known:
    """What all denoising steps of B decisions have in common."""

    condition: Tensor
    """[B, H, W] made from hidden states."""
    guess: Tensor
    """[B, H, A] the actions expected by whoever saw the observation before, normalised."""

    def repeat(self, times: int) -> Known:
        """[B * times, ...] each decision so many times in a row."""
        return Known(self.condition.repeat_interleave(times, 0), self.guess.repeat_interleave(times, 0))


class FlowHead(nn.Module):
    """Velocity [B, H, A] of a noisy chunk, from hidden states and a guess m that a backbone made once.

    The network's part F is what a linear guess cannot know. With e = x - t m,

        v = m + s(t) e + o(t) F(i(t) e, m, t, hidden),

    where m + s e is the best linear guess of data - noise from x for data of mean m and deviation d, i gives F's input
    unit variance, and o F's target. That is what Karras et al. (arXiv 2206.00364, section 5) do for diffusion, worked
    out for the straight path. A fresh head, whose F is 0, carries noise to N(m, d^2): it starts with what the backbone
    knows, and need not learn how noise is subtracted.
    """

    def __init__(self, config: FlowConfig, hidden_width: int, num_queries: int, chunk_shape: tuple[int, int]) -> None:
        """`num_queries` hidden states of `hidden_width`, an equal share for each of the chunk's H actions."""
        super().__init__()
        horizon, action_size = chunk_shape
        if num_queries % horizon:
            raise ReflexError(f"{num_queries} action queries cannot be shared evenly by {horizon} actions of a chunk")
        self.horizon, self.deviation = horizon, config.action_deviation
        width = config.width
        self.condition = nn.Linear(hidden_width * num_queries // horizon, width)
        self.position = nn.Parameter(0.02 * torch.randn(horizon, width))
        self.action_in = nn.Linear(2 * action_size, width)
        self.time_in = nn.Sequential(nn.Linear(2 * TIME_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(_Layer(width, config.attention_heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.velocity_out = nn.Linear(width, action_size)
        self.noise_out = nn.Linear(width, action_size) if config.noise == "learned" else None
        for output in (self.velocity_out, self.noise_out):
            if output is not None:
                nn.init.zeros_(output.weight)
                nn.init.zeros_(output.bias)

    def encode(self, hidden: Tensor, guess: Tensor) -> Known:
        """Hidden states [B, Q, D] and a guess [B, H, A] -> what every step of the denoising starts from."""
        condition = self.condition(hidden.float().reshape(len(hidden), self.horizon, -1)) + self.position
        return Known(condition, guess.float())

    def forward(self, known: Known, x: Tensor, times: Tensor) -> tuple[Tensor, Tensor | None]:
        """Velocity [B, H, A] at x [B, H, A] and times [B], and the logarithm of the deviation's factor, if learned."""
        at = times[:, None, None]
        skip, scale_in, scale_out = preconditioning(at, self.deviation)
        off = x - at * known.guess
        entries = torch.cat([scale_in * off, known.guess], dim=-1)
        tokens = known.condition + self.action_in(entries) + self.time_in(_waves(times))[:, None]
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        velocity = known.guess + skip * off + scale_out * self.velocity_out(tokens)
        if self.noise_out is None:
            return velocity, None
        return velocity, math.log(NOISE_SPREAD) * torch.tanh(self.noise_out(tokens))


def preconditioning(times: Tensor, deviation: float) -> tuple[Tensor, Tensor, Tensor]:
    """s, i and o of `FlowHead` at times of any shape, for data of deviation d.

    With x = (1 - t) n + t y, n ~ N(0, 1), y ~ N(m, d^2): Var x = (1 - t)^2 + t^2 d^2; s = Cov(y - n, x) / Var x =
    (t d^2 - (1 - t)) / Var x; i = 1 / sqrt(Var x); o^2 = Var(y - n - s x) =
    d^2 / Var x.
    """
    variance = (1.0 - times) ** 2 + (times * deviation) ** 2
    return (times * deviation**2 - (1.0 - times)) / variance, variance**-0.5, deviation * variance**-0.5


def _waves(times: Tensor) -> Tensor:
    """[B] -> [B, 2 * TIME_FREQUENCIES]"""
    frequencies = math.pi * 2.0 ** (torch.arange(TIME_FREQUENCIES, device=times.device) / 2.0)
    angles = times[:, None] * frequencies
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


class _Layer(nn.Module):
    """Self-attention over the chunk's actions and a two-layer perceptron, each after a norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.perceptron_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project_in, self.project_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        batch, horizon, width = tokens.shape
        projected = self.project_in(self.attention_norm(tokens)).view(batch, horizon, 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        tokens = tokens + self.project_out(mixed.reshape(batch, horizon, width))
        result: Tensor = tokens + self.perceptron(self.perceptron_norm(tokens))
        return result
