"""What cameras are called in datasets and simulators, and by whom."""

from __future__ import annotations

from collections.abc import Sequence

from vla.data.lerobot_keys import CAMERA_PREFIX, LIBERO_CAMERAS

SYNONYMS: dict[str, frozenset[str]] = {
    # Names are matched only where each side has one of a line: with "front" and "top" nobody guesses which is meant.
    "the scene": frozenset(
        {
            "image",  # LIBERO in LeRobot's format, openpi
            "agentview",  # robosuite
            "agentview_image",
            "front",  # SO-101
            "top",  # ALOHA, SO-101
            "up",
            "side",
            "base",
            "base_0_rgb",  # openpi's models
            "cam_high",  # ALOHA
            "high",
            "overhead",
            "corner2",  # MetaWorld
            "exterior",
            "exterior_1",
            "exterior_1_left",  # DROID
            "exterior_image_1_left",
            "third_person",
            "main",
            "scene",
            "camera1",  # SmolVLA
        }
    ),
    "the wrist": frozenset(
        {
            "wrist",  # SO-101
            "wrist_image",  # openpi
            "image2",  # LIBERO in LeRobot's format
            "image_wrist",
            "hand",
            "gripper",
            "gripper_cam",
            "gripperpov",  # MetaWorld
            "eye_in_hand",  # robosuite
            "robot0_eye_in_hand",
            "eye_in_hand_rgb",
            "wrist_left",  # DROID
            "wrist_image_left",
            "wrist_cam",
            "cam_wrist",
        }
    ),
    "the left wrist": frozenset({"left_wrist", "cam_left_wrist", "left_wrist_0_rgb", "wrist_l"}),
    "the right wrist": frozenset({"right_wrist", "cam_right_wrist", "right_wrist_0_rgb", "wrist_r"}),
}
"""What a camera shows -> names of it, in lower case."""


def find_camera(text: str, names: Sequence[str]) -> str | None:
    """The camera of `names` that a person means by a name or by a dataset's key; None for none."""
    bare = text.removeprefix(CAMERA_PREFIX).removeprefix("observation.")
    here = {theirs: ours for ours, theirs in LIBERO_CAMERAS.items()}
    return next((name for name in (text, bare, here.get(bare)) if name in names), None)
