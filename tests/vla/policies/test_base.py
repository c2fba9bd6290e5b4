"""What a family of one's own starts from: inputs, pictures, noise, scales, folders; with a network on pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from examples.own_policy import LinearPolicy
from sim.contract import ObservationBatch
from sim.embodiments import PANDA_EEF, Embodiment
from tests.vla.policies.helpers import generators, make_observations, with_picture
from vla.data.feature_map import FeatureMap
from vla.errors import ReflexError
from vla.policies.base import (
    BasePolicy,
    PicturesAndState,
    Scale,
    TensorInputs,
    camera_frames,
    finite_states,
    gaussian_noise,
)
from vla.policies.protocol import PicturedInputs, PolicyOutput, PolicySpec, TrainablePolicy
from vla.policies.registry import load_policy
from vla.policies.sampling import GREEDY, Sampling


class PicturePolicy(BasePolicy):
    """Deterministic: one action from the mean colour of each camera."""

    family = "tests.vla.policies.test_base:PicturePolicy"

    def __init__(self, embodiment: Embodiment, width: int = 3, policy_id: str = "pictures") -> None:
        super().__init__(embodiment.with_image_size(16), policy_id)
        self.width = width
        self.head = torch.nn.Linear(3 * len(embodiment.cameras), embodiment.action.size)

    def settings(self) -> dict[str, Any]:
        return {"width": self.width}

    @property
    def spec(self) -> PolicySpec:
        return PolicySpec(self.embodiment, False, 1, 1, (0,) * self.embodiment.action.size)

    def prepare(self, observations: ObservationBatch) -> PicturesAndState:
        frames = [
            camera_frames(observations["images"], camera.name, self.feature_map, camera.height, camera.width)
            for camera in self.embodiment.cameras
        ]
        return PicturesAndState(torch.stack(frames, dim=1), torch.zeros(len(frames[0]), 0))

    def forward(self, inputs: PicturesAndState) -> torch.Tensor:
        colours = inputs.images.to(self.device).float().mean((2, 3)).flatten(1) / 255
        actions: torch.Tensor = self.action_scale.inverse(self.head(colours))
        return actions

    @torch.no_grad()
    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        actions = self(self.prepare(observations)).numpy()
        return PolicyOutput(self.embodiment.action.clip(actions[:, None]), actions, np.zeros_like(actions))

    def log_prob(self, inputs: Any, decisions: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros_like(decisions), torch.zeros_like(decisions)

    def imitation_loss(self, inputs: Any, actions: NDArray[np.float32]) -> tuple[torch.Tensor, dict[str, float]]:
        return (self(inputs) - torch.from_numpy(actions[:, 0])).square().mean(1), {}

    def features_from_inputs(self, inputs: Any) -> NDArray[np.float32]:
        return np.zeros((len(inputs), 1), np.float32)


def test_inputs_are_indexed_joined_and_pictured() -> None:
    images = torch.arange(3 * 2 * 4 * 4 * 3, dtype=torch.uint8).view(3, 2, 4, 4, 3)
    inputs = PicturesAndState(images, torch.arange(6.0).view(3, 2))
    assert len(inputs) == 3 and isinstance(inputs, PicturedInputs) and not isinstance(TensorInputs(), PicturedInputs)
    joined = PicturesAndState.concatenate([inputs[1:], inputs[torch.tensor([0])]])
    assert torch.equal(joined.images, images[[1, 2, 0]]) and joined.state[:, 0].tolist() == [2.0, 4.0, 0.0]
    other = inputs.with_images(255 - images)
    assert torch.equal(other.images, 255 - images) and torch.equal(other.state, inputs.state)


def test_pictures_are_found_resized_and_checked() -> None:
    images = make_observations(2, size=32)["images"]
    there = camera_frames(images, "wrist", FeatureMap({"wrist": "wrist_image"}), 32, 32)
    np.testing.assert_array_equal(there.numpy(), images["wrist_image"])
    assert camera_frames(images, "image", FeatureMap(), 16, 8).shape == (2, 16, 8, 3)
    with pytest.raises(ReflexError, match=r"camera 'top' .* has image, wrist_image; set feature_map\.cameras\.top"):
        camera_frames(images, "top", FeatureMap(), 16, 16)
    with pytest.raises(ReflexError, match="expected uint8"):
        camera_frames({"image": images["image"].astype(np.float32)}, "image", FeatureMap(), 16, 16)  # type: ignore[dict-item]


def test_states_of_another_size_or_not_finite_are_refused() -> None:
    observations = make_observations(2)
    np.testing.assert_array_equal(finite_states(observations, 8).numpy(), observations["state"])
    with pytest.raises(ReflexError, match=r"expected \[B, 6\], got \[2, 8\]"):
        finite_states(observations, 6)
    observations["state"][1, 3] = np.inf
    with pytest.raises(ReflexError, match=r"rows \[1\]"):
        finite_states(observations, 8)


def test_noise_is_each_generator_s_own() -> None:
    together, alone = gaussian_noise(generators(3), 3, (4, 2)), gaussian_noise(generators(3)[1:2], 1, (4, 2))
    assert together.shape == (3, 4, 2) and torch.equal(together[1], alone[0])
    with pytest.raises(ReflexError, match="one generator per environment: 3, not none"):
        gaussian_noise(None, 3, (4, 2))
    with pytest.raises(ReflexError, match="one generator per environment: 3, not 2"):
        gaussian_noise(generators(2), 3, (4, 2))


def test_a_scale_by_hand() -> None:
    scale = Scale(2)
    values = np.array([[1.0, 5.0], [3.0, 5.0]], np.float32)
    assert not scale.fitted
    scale.fit(values)
    assert scale.fitted
    np.testing.assert_allclose(scale(torch.from_numpy(values)).numpy(), [[-1, 0], [1, 0]])
    np.testing.assert_allclose(scale.inverse(torch.tensor([[2.0, 0.5]])).numpy(), [[4.0, 5.5]])


def test_a_folder_keeps_settings_scales_and_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = PicturePolicy(PANDA_EEF, width=5)
    assert isinstance(policy, TrainablePolicy) and not policy.has_normalisation
    policy.fit_normalisation(np.eye(7, dtype=np.float32), np.eye(8, dtype=np.float32))
    policy.feature_map, policy.policy_id = FeatureMap({"image": "top"}), "renamed"
    policy.save_pretrained(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert isinstance(loaded, PicturePolicy)
    assert (loaded.width, loaded.policy_id, loaded.feature_map) == (5, "renamed", policy.feature_map)
    assert loaded.has_normalisation
    observations = make_observations(2)
    observations = with_picture(observations, "top", observations["images"].pop("image"))
    np.testing.assert_array_equal(loaded.act(observations).actions, policy.act(observations).actions)


def test_one_observation_with_a_dataset_s_names_is_taken() -> None:
    policy = PicturePolicy(PANDA_EEF)
    policy.feature_map = FeatureMap({"image": "top"})
    observations = make_observations(1)
    flat = {
        "observation.images.top": observations["images"]["image"][0],
        "observation.images.wrist_image": observations["images"]["wrist_image"][0],
        "observation.state": observations["state"][0],
    }
    wanted = policy.act(with_picture(observations, "top", observations["images"]["image"])).actions[0]
    np.testing.assert_array_equal(policy.select_action(flat), wanted)


def test_what_a_folder_or_a_class_lacks_is_said(tmp_path: Path) -> None:
    LinearPolicy(PANDA_EEF, 4).save_pretrained(tmp_path / "policy")
    config = tmp_path / "policy" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"depth": 2}))
    with pytest.raises(ReflexError, match=r"config\.json: got an unexpected keyword argument 'depth'.*LinearPolicy"):
        load_policy(tmp_path / "policy")
    config.write_text(json.dumps(values))
    (tmp_path / "policy" / "embodiment.json").unlink()
    with pytest.raises(ReflexError, match=r"has no embodiment\.json"):
        load_policy(tmp_path / "policy")

    class Unfinished(BasePolicy):
        family = "nowhere:Unfinished"

    with pytest.raises(TypeError, match=r"Can't instantiate abstract class Unfinished.*act"):
        Unfinished(PANDA_EEF, "unfinished")  # type: ignore[abstract]
