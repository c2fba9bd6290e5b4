"""Shifts and colour changes, by hand and in bulk."""

from __future__ import annotations

import pytest
import torch

from vla.errors import ReflexError
from vla.imitation.augmentation import AugmentationConfig, augment_frames, jitter_colours, shift_frames


def make_frames(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 2, 8, 8, 3), dtype=torch.uint8, generator=generator)


def test_shift_by_hand() -> None:
    frame = torch.arange(9, dtype=torch.uint8).view(1, 3, 3, 1).expand(1, 3, 3, 3)
    down_right = shift_frames(frame, torch.tensor([[1, 1]]))[0, :, :, 0]
    assert down_right.tolist() == [[4, 5, 5], [7, 8, 8], [7, 8, 8]]
    up = shift_frames(frame, torch.tensor([[-1, 0]]))[0, :, :, 0]
    assert up.tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]


def test_colour_change_by_hand() -> None:
    frame = torch.tensor([10, 100, 200], dtype=torch.uint8).view(1, 1, 1, 3)
    changed = jitter_colours(frame, torch.tensor([[2.0, 0.5, 2.0]]), torch.tensor([[-30.0, 0.4, 0.0]]))
    assert changed.flatten().tolist() == [0, 50, 255]


def test_shape_and_type_stay_and_frames_differ_from_one_another() -> None:
    same = make_frames()[:1, :1].expand(3, 2, 8, 8, 3).contiguous()
    augmented = augment_frames(same, AugmentationConfig(), torch.Generator().manual_seed(0))
    assert augmented.shape == same.shape and augmented.dtype == torch.uint8
    assert not torch.equal(augmented[0, 0], augmented[0, 1])
    assert not torch.equal(augmented[0, 0], augmented[1, 0])


def test_no_augmentation_is_the_identity_and_a_seed_fixes_the_rest() -> None:
    frames = make_frames()
    off = AugmentationConfig(shift_pixels=0, brightness=0, contrast=0, colour=0)
    assert torch.equal(augment_frames(frames, off, torch.Generator()), frames)
    first = augment_frames(frames, AugmentationConfig(), torch.Generator().manual_seed(5))
    second = augment_frames(frames, AugmentationConfig(), torch.Generator().manual_seed(5))
    assert torch.equal(first, second)


def test_changes_stay_within_their_ranges() -> None:
    grey = torch.full((200, 1, 4, 4, 3), 100, dtype=torch.uint8)
    config = AugmentationConfig(shift_pixels=4, brightness=0.1, contrast=0.0, colour=0.0)
    values = augment_frames(grey, config, torch.Generator().manual_seed(0)).float()
    assert 74 <= values.min() < 80 and 120 < values.max() <= 126


def test_negative_ranges_are_refused() -> None:
    with pytest.raises(ReflexError, match=r"augmentation\.shift_pixels is -1"):
        AugmentationConfig(shift_pixels=-1)
