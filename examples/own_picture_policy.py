"""The family of `examples/own_policy.py` with a small network on the first camera and the state.

python -m examples.own_picture_policy          # writes the folder picture_policy, with random weights
vla check policy=picture_policy suite=tabletop
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from examples.own_policy import LinearPolicy
from sim.contract import ObservationBatch
from sim.embodiments import PANDA_EEF, Embodiment
from vla.policies.base import PicturesAndState, camera_frames, finite_states


class PicturePolicy(LinearPolicy):
    """A convolutional network says where each of its channels sees most, and a perceptron reads that and the state."""

    family = "examples.own_picture_policy:PicturePolicy"

    def __init__(self, embodiment: Embodiment, horizon: int = 8, policy_id: str = "pictures") -> None:
        super().__init__(embodiment, horizon, policy_id)
        self.embodiment = replace(embodiment, cameras=embodiment.cameras[:1])
        self.vision = torch.nn.Sequential(
            torch.nn.Conv2d(3, 24, 5, stride=2, padding=2),
            torch.nn.ReLU(),
            torch.nn.Conv2d(24, 32, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(32, 16, 3, padding=1),
        )
        self.trunk = torch.nn.Sequential(
            torch.nn.Linear(2 * 16 + embodiment.state.size, 128),
            torch.nn.ReLU(),
            torch.nn.Linear(128, 128),
            torch.nn.ReLU(),
        )
        self.mean = torch.nn.Linear(128, horizon * embodiment.action.size)

    def prepare(self, observations: ObservationBatch) -> PicturesAndState:
        camera = self.embodiment.cameras[0]
        frames = camera_frames(observations["images"], camera.name, self.feature_map, camera.height, camera.width)
        return PicturesAndState(frames[:, None], finite_states(observations, self.embodiment.state.size))

    def hidden(self, inputs: PicturesAndState) -> torch.Tensor:
        pixels = inputs.images[:, 0].to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        maps: torch.Tensor = self.vision(pixels)
        features: torch.Tensor = self.trunk(torch.cat([keypoints(maps), self.state_scale(inputs.state)], dim=1))
        return features


def keypoints(maps: torch.Tensor) -> torch.Tensor:
    """Mean places in [-1, 1] of the softmax of each map: [B, N, h, w] -> [B, 2 N], rows then columns.

    Spatial soft-argmax (Levine et al. 2016, arXiv 1504.00702): with few demonstrations, places are learnt sooner than
    what a flattened map says.
    """
    height, width = maps.shape[2:]
    weights = maps.flatten(2).softmax(dim=2).view(maps.shape)
    rows = weights.sum(3) @ torch.linspace(-1, 1, height, device=maps.device)
    columns = weights.sum(2) @ torch.linspace(-1, 1, width, device=maps.device)
    return torch.cat([rows, columns], dim=1)


def main(folder: str = "picture_policy") -> None:
    """Write a policy with random weights for the tabletop's robot."""
    torch.manual_seed(0)
    PicturePolicy(PANDA_EEF).save_pretrained(folder)
    print(f"{Path(folder).resolve()} is a policy folder: vla check policy={folder}")


if __name__ == "__main__":
    main()
