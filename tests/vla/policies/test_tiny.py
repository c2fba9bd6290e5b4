"""Keypoint tokens: a detector's position is where it responds."""

import pytest
import torch

from tests.vla.policies.helpers import make_observations, small_config
from vla.errors import ReflexError
from vla.policies.tiny import TinyPolicy, reflex_tiny_config
from vla.policies.tiny.keypoints import HIDDEN, KeypointTower, WordGrounding, expected_positions


def _red_detector(size: int = 8) -> KeypointTower:
    """One keypoint that responds strongly to red patches and to nothing else."""
    tower = KeypointTower(size, keypoints=1, tokens=1, width=4)
    with torch.no_grad():
        for module in (tower.hidden, tower.surroundings, tower.detectors):
            for parameter in module.parameters():
                parameter.zero_()
        tower.hidden.weight[0] = torch.tensor([1.0, -1.0, 0.0]).repeat(4) / 4.0
        tower.detectors.weight[0, 0] = 20.0
    return tower


def _frame(rows: slice, columns: slice, size: int = 8) -> torch.Tensor:
    frame = torch.full((1, size, size, 3), 100, dtype=torch.uint8)
    frame[0, rows, columns] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    return frame


def _positions(tower: KeypointTower, frames: torch.Tensor) -> torch.Tensor:
    return tower.positions(tower.features(frames)).detach()


def test_position_of_a_single_patch() -> None:
    # The patch in the second column and last row of a 4 x 4 grid over [-1, 1]: x = -1 + 2/3, y = 1.
    position = _positions(_red_detector(), _frame(slice(6, 8), slice(2, 4)))[0, 0]
    assert position[0] == pytest.approx(-1 / 3, abs=1e-3)
    assert position[1] == pytest.approx(1.0, abs=1e-3)


def test_position_of_two_patches_is_their_middle() -> None:
    position = _positions(_red_detector(), _frame(slice(0, 2), slice(0, 4)))[0, 0]
    assert position[0] == pytest.approx(-2 / 3, abs=1e-3)
    assert position[1] == pytest.approx(-1.0, abs=1e-3)


def test_an_absent_colour_points_at_the_middle_with_a_low_peak() -> None:
    tower = _red_detector()
    absent = _positions(tower, torch.full((1, 8, 8, 3), 100, dtype=torch.uint8))[0, 0]
    present = _positions(tower, _frame(slice(0, 2), slice(0, 2)))[0, 0]
    assert absent[:2].abs().max() < 1e-4
    assert present[2] > absent[2] + 0.5


def test_tokens_have_the_asked_shape_and_a_gradient() -> None:
    tower = KeypointTower(64, keypoints=16, tokens=4, width=10)
    tokens = tower(tower.features(torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)))
    assert tokens.shape == (3, 4, 10)
    torch.autograd.backward(tokens.square().mean())
    assert tower.hidden.weight.grad is not None and tower.hidden.weight.grad.abs().sum() > 0


def test_uneven_groups_are_refused() -> None:
    with pytest.raises(ReflexError, match="multiple of keypoint_tokens"):
        reflex_tiny_config(keypoints=18)


def test_a_detector_sees_what_surrounds_a_patch_but_not_what_is_far() -> None:
    torch.manual_seed(0)
    tower = KeypointTower(64, keypoints=1, tokens=1, width=4)
    grey = torch.full((1, 64, 64, 3), 100, dtype=torch.uint8)
    changed = grey.clone()
    changed[0, 30, 30] = 255
    # Patch (15, 15) of 32 x 32 is in cell (7, 7) of 16 x 16, which two 3 x 3 convolutions show to cells 5 .. 9.
    differs = (tower.features(grey) != tower.features(changed)).any(-1).view(32, 32)
    assert differs[10:20, 10:20].float().mean() > 0.9
    differs[10:20, 10:20] = False
    assert not differs.any()


def test_with_a_radius_the_place_is_at_the_strongest_response_not_between_two() -> None:
    # Nine places in a row over [-1, 1]; responses at the first three and at the last.
    axis = torch.linspace(-1.0, 1.0, 9)
    coordinates = torch.stack([torch.ones(9), axis, torch.zeros(9)], dim=-1)
    responses = torch.full((1, 9, 1), -100.0)
    responses[0, :3, 0] = torch.tensor([1.0, 2.0, 1.0])
    responses[0, 8, 0] = 1.9
    near = expected_positions(responses, coordinates, radius=0.3)[0, 0]
    # symmetric about the second place
    torch.testing.assert_close(near, torch.tensor([-0.75, 0.0, 0.2]))
    assert expected_positions(responses, coordinates)[0, 0, 0] > -0.3


def _red_words(following: torch.Tensor) -> tuple[KeypointTower, WordGrounding, torch.Tensor]:
    """A tower that sees red, words' detectors whose red part is +-20, and two words, of which the last only follows.

    The detector of the first looks for red if the first embedding is (1, 0, 0, -1), and is turned by `following`'s
    first number.
    """
    tower = _red_detector()
    grounding = WordGrounding(tower, cameras=2, width=4, scale=1.0)
    with torch.no_grad():
        grounding.detector.weight.zero_()
        grounding.detector.bias.zero_()
        grounding.detector.weight[0, 0] = 20.0
        grounding.detector.weight[0, 4] = 30.0
        grounding.projection.weight.copy_(torch.eye(6)[[0, 1, 3, 4]])  # x and y in each of the two cameras
        grounding.projection.bias.zero_()
    return tower, grounding, torch.stack([torch.tensor([1.0, 0.0, 0.0, -1.0]), following])[None]


def test_a_word_is_told_where_each_camera_sees_what_it_names() -> None:
    tower, grounding, words = _red_words(torch.tensor([0.0, 1.0, -1.0, 0.0]))
    frames = torch.cat([_frame(slice(6, 8), slice(2, 4)), _frame(slice(0, 2), slice(0, 2))])
    responses = grounding.responses(words, tower.features(frames).view(1, 2, 16, -1))
    assert responses.shape == (1, 2, 16, 1)
    # The same patches as above: (-1/3, 1) in the first camera and (-1, -1) in the second.
    torch.testing.assert_close(
        grounding(responses).detach()[0, 0], torch.tensor([-1 / 3, 1.0, -1.0, -1.0]), atol=1e-3, rtol=0
    )


def test_the_following_word_decides_too() -> None:
    tower, grounding, words = _red_words(torch.tensor([-1.0, 0.0, 0.0, 1.0]))
    frames = torch.cat([_frame(slice(6, 8), slice(2, 4)), _frame(slice(0, 2), slice(0, 2))])
    responses = grounding.responses(words, tower.features(frames).view(1, 2, 16, -1)).detach()
    # 20 - 30 < 0: the detector now looks for what is not red.
    assert responses[0, 0, 13, 0] == responses[0, 0].min() and responses[0, 1, 0, 0] == responses[0, 1].min()


def test_a_word_may_prefer_a_side_of_the_picture() -> None:
    tower, grounding, words = _red_words(torch.tensor([0.0, 1.0, -1.0, 0.0]))
    with torch.no_grad():
        grounding.detector.bias[HIDDEN] = -1.0  # the left
    both = torch.cat([_frame(slice(6, 8), slice(0, 2)) for _ in range(2)])
    both[:, 6:8, 6:8] = both[:, 6:8, 0:2]
    responses = grounding.responses(words, tower.features(both).view(1, 2, 16, -1)).detach()
    assert responses[0, 0, 12, 0] - responses[0, 0, 15, 0] == pytest.approx(2.0, abs=1e-4)
    torch.testing.assert_close(
        grounding(responses).detach()[0, 0], torch.tensor([-1.0, 1.0, -1.0, 1.0]), atol=1e-3, rtol=0
    )


def test_a_picture_tower_that_gives_another_number_of_tokens_is_refused() -> None:
    policy = TinyPolicy.from_config(small_config(vision_tokens=9))
    with pytest.raises(ReflexError, match="gives 4 tokens a frame; vision_tokens says 9"):
        policy.act(make_observations(1))
