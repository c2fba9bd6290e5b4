"""Keypoint tokens: where in the picture learned detectors respond, as coordinates.

A spatial softmax (Finn et al., "Deep spatial autoencoders for visuomotor learning", 2016, section IV) turns a response
map into the expected position of its response. A network of a few million parameters learns to localise from it within
minutes, where patch tokens alone take hours: the position of an object is then a linear read-out, not a lookup.
"""

from __future__ import annotations

import torch
from torch import nn

PATCH = 2
"""Side of the pixel patches the detectors look at."""
HIDDEN = 64
"""Width of the detectors' hidden layer."""


class KeypointTower(nn.Module):
    """Frames -> `tokens` tokens of `width`, each linear in the positions and peaks of its group of keypoints."""

    coordinates: torch.Tensor

    def __init__(self, image_size: int, keypoints: int, tokens: int, width: int) -> None:
        super().__init__()
        self.keypoints, self.tokens, self.side = keypoints, tokens, image_size // PATCH
        self.hidden = nn.Linear(3 * PATCH * PATCH, HIDDEN)
        self.detectors = nn.Linear(HIDDEN, keypoints)
        group = 3 * keypoints // tokens
        self.token_weight = nn.Parameter(torch.randn(tokens, group, width) * group**-0.5)
        self.token_bias = nn.Parameter(torch.zeros(tokens, width))
        with torch.no_grad():
            # Sharp from the start: a detector that responds everywhere alike points at the middle of every picture.
            self.hidden.weight.mul_(3.0)
            self.hidden.bias.uniform_(-1.0, 1.0)
            self.detectors.weight.mul_(8.0)
        axis = torch.linspace(-1.0, 1.0, self.side)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        columns = torch.stack([torch.ones_like(x), x, y], dim=-1).flatten(0, 1)
        self.register_buffer("coordinates", columns, persistent=False)

    def positions(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames [B, S, S, 3] with values 0..255 -> [B, keypoints, 3]: x and y in [-1, 1], and the peak response."""
        batch, side = len(frames), self.side
        pixels = frames.to(self.token_bias.dtype) / 127.5 - 1.0
        patches = (
            pixels.view(batch, side, PATCH, side, PATCH, 3).permute(0, 1, 3, 2, 4, 5).reshape(batch, side * side, -1)
        )
        responses = self.detectors(torch.relu(self.hidden(patches)))
        peaks = responses.amax(dim=1, keepdim=True)
        # The softmax as a matrix product with (1, x, y): its sums come out of the same pass as the expectation.
        moments = torch.exp(responses - peaks.detach()).transpose(1, 2) @ self.coordinates.to(responses.dtype)
        moments = moments.float()
        return torch.cat([moments[..., 1:] / moments[..., :1], 0.1 * peaks.float().transpose(1, 2)], dim=-1)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames [B, S, S, 3] -> tokens [B, tokens, width]."""
        groups = self.positions(frames).view(len(frames), self.tokens, -1)
        return torch.einsum("btg,tgw->btw", groups, self.token_weight) + self.token_bias
