"""Keypoints: where in the picture learned detectors respond, as coordinates.

A spatial softmax (Finn et al., "Deep spatial autoencoders for visuomotor learning", 2016, section IV) turns a response
map into the expected position of its response. A network of a few million parameters learns to localise from it within
minutes, where patch tokens alone take hours: the position of an object is then a linear read-out, not a lookup.

Detectors are of two kinds. Fixed ones give tokens of their own, beside the vision tower's. Words give theirs to the
instruction's tokens: each word's embedding is turned into a detector, and where it responds is added to that word's
token (cross-attention from words to pixels whose values are coordinates). What a policy does with the position of "the
first thing named" is then the same for every colour, so a thing never named in a task before is found there too.
"""

from __future__ import annotations

import torch
from torch import nn

PATCH = 2
"""Side of the pixel patches the detectors look at."""
HIDDEN = 64
"""Width of the detectors' hidden layer."""
CELL = 2
"""Side, in patches, of the cells whose surroundings are looked at."""
WORD_RADIUS = 0.25
"""A word's place is read within this distance, in each axis of a picture 2 wide, of its strongest response. Where two
things are alike the responses say how likely each is the one meant; the place expected over the whole picture would lie
between them, where nothing is."""


class KeypointTower(nn.Module):
    """Frames -> `tokens` tokens of `width`, each linear in the positions and peaks of its group of keypoints."""

    coordinates: torch.Tensor

    def __init__(self, image_size: int, keypoints: int, tokens: int, width: int) -> None:
        super().__init__()
        self.keypoints, self.tokens, self.side = keypoints, tokens, image_size // PATCH
        self.hidden = nn.Linear(3 * PATCH * PATCH, HIDDEN)
        self.surroundings = nn.Sequential(
            nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)
        )
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

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames [B, S, S, 3] with values 0..255 -> patch features [B, P, HIDDEN] that detectors respond to."""
        batch, side = len(frames), self.side
        pixels = frames.to(self.token_bias.dtype) / 127.5 - 1.0
        patches = (
            pixels.view(batch, side, PATCH, side, PATCH, 3).permute(0, 1, 3, 2, 4, 5).reshape(batch, side * side, -1)
        )
        patches = self.hidden(patches).transpose(1, 2).view(batch, HIDDEN, side, side)
        cells = self.surroundings(nn.functional.avg_pool2d(torch.relu(patches), CELL))
        # In place, and out in the layout it has: what takes time here is moving pictures' worth of numbers.
        seen = nn.functional.interpolate(cells, scale_factor=CELL).add_(patches).relu_()
        return seen.permute(0, 2, 3, 1).reshape(batch, side * side, HIDDEN)

    def positions(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, P, HIDDEN] -> [B, keypoints, 3]: x and y in [-1, 1], and the peak response."""
        return expected_positions(self.detectors(features), self.coordinates)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, P, HIDDEN] -> tokens [B, tokens, width]."""
        groups = self.positions(features).view(len(features), self.tokens, -1)
        return torch.einsum("btg,tgw->btw", groups, self.token_weight) + self.token_bias


class WordGrounding(nn.Module):
    """Where each camera sees what a word names, added to the word's token."""

    coordinates: torch.Tensor

    def __init__(self, tower: KeypointTower, cameras: int, width: int, scale: float) -> None:
        super().__init__()
        self.detector = nn.Linear(2 * width, HIDDEN + 2)
        self.projection = nn.Linear(3 * cameras, width)
        # Sharper from the start than the tower's detectors: a word whose colour resembles the table's must outshine
        # hundreds of table patches; a soft detector starts by pointing at the middle of the picture.
        nn.init.normal_(self.detector.weight, std=3.0 * (2 * width) ** -0.5)
        with torch.no_grad():
            self.detector.weight[HIDDEN:].zero_()  # no side of the picture is preferred at first
        nn.init.normal_(self.projection.weight, std=scale)
        self.register_buffer("coordinates", tower.coordinates.clone(), persistent=False)

    def responses(self, words: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, T + 1, D] and features [B, cameras, P, HIDDEN] -> how each place responds [B, cameras, P, T].

        The last word only follows the one before it: at the end of an instruction, the padding.
        """
        words = nn.functional.layer_norm(words, words.shape[-1:])
        detectors = self.detector(torch.cat([words[:, :-1], words[:, 1:]], dim=-1)).transpose(1, 2).to(features.dtype)
        side = self.coordinates[:, 1:].to(features.dtype) @ detectors[:, HIDDEN:]
        responses: torch.Tensor = features @ detectors[:, None, :HIDDEN] + side[:, None]
        return responses

    def forward(self, responses: torch.Tensor) -> torch.Tensor:
        """Responses [B, cameras, P, T] -> what to add to the words' tokens [B, T, D]."""
        batch, cameras = responses.shape[:2]
        found = expected_positions(responses.flatten(0, 1), self.coordinates, WORD_RADIUS)
        found = found.view(batch, cameras, -1, 3).transpose(1, 2).flatten(2)
        added: torch.Tensor = self.projection(found.to(responses.dtype))
        return added


def expected_positions(responses: torch.Tensor, coordinates: torch.Tensor, radius: float | None = None) -> torch.Tensor:
    """Responses [B, P, K] of K detectors at P places -> [B, K, 3]: expected x and y, and a tenth of the peak.

    `coordinates` [P, 3] are (1, x, y) of the places. With a `radius`, only places whose x and y are that near to those
    of the strongest response count.
    """
    peaks, strongest = responses.max(dim=1, keepdim=True)
    weights = torch.exp(responses - peaks.detach())
    if radius is not None:
        for axis in coordinates[:, 1:].unbind(dim=1):  # one by one: a last dimension of two would be slow on a CPU
            weights = weights.masked_fill((axis[:, None] - axis[strongest]).abs() > radius, 0.0)
    # The softmax as a matrix product with (1, x, y): its sums come out of the same pass as the expectation.
    moments = weights.transpose(1, 2) @ coordinates.to(responses.dtype)
    moments = moments.float()
    return torch.cat([moments[..., 1:] / moments[..., :1], 0.1 * peaks.float().transpose(1, 2)], dim=-1)
