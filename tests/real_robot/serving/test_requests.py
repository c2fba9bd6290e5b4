"""Whatever keys a request has, the policy gets the observation it was made for, or the client is told what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from real_robot.serving.requests import RequestReader, match_cameras
from sim.embodiments import PANDA_EEF
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.data.images import resize_frames
from vla.errors import ReflexError
from vla.policies.protocol import PolicySpec

SPEC = PolicySpec(PANDA_EEF, uses_state=True, chunk_horizon=4, execute_steps=4, unit_steps=())
READER = RequestReader(SPEC, SAME_NAMES, max_batch=3)
SCENE, WRIST = (np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8) for seed in (0, 1))
STATE = np.arange(8, dtype=np.float32)
NESTED = {"images": {"image": SCENE, "wrist_image": WRIST}, "state": STATE, "instruction": "go"}
FORMS: dict[str, dict[str, Any]] = {
    "nested": NESTED,
    "nested under other names": {**NESTED, "images": {"agentview": SCENE, "eye_in_hand": WRIST}},
    "nested, channels first": {
        **NESTED,
        "images": {"image": SCENE.transpose(2, 0, 1), "wrist_image": WRIST.transpose(2, 0, 1)},
    },
    "lerobot": {
        "observation.images.image": SCENE,
        "observation.images.image2": WRIST,
        "observation.state": STATE[None],
        "task": ["go"],
    },
    "lerobot in floating point": {
        "observation.images.front": (SCENE / np.float32(255)).transpose(2, 0, 1)[None],
        "observation.images.wrist": (WRIST / np.float32(255)).transpose(2, 0, 1)[None],
        "observation.state": STATE,
        "task": "go",
    },
    "libero": {
        "observation/image": SCENE,
        "observation/wrist_image": WRIST,
        "observation/state": STATE.astype(np.float64),
        "prompt": "go",
    },
    "droid": {
        "observation/exterior_image_1_left": SCENE,
        "observation/wrist_image_left": WRIST,
        "observation/joint_position": STATE[:7],
        "observation/gripper_position": STATE[7:],
        "prompt": "go",
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_observation(form: str) -> None:
    observations, is_batch = READER.read(FORMS[form])
    assert not is_batch
    np.testing.assert_array_equal(observations["images"]["image"], SCENE[None])
    np.testing.assert_array_equal(observations["images"]["wrist_image"], WRIST[None])
    np.testing.assert_array_equal(observations["state"], STATE[None])
    assert observations["instruction"] == ["go"]
    assert observations["state"].dtype == np.float32


def test_pictures_get_the_policys_size_as_in_process() -> None:
    large = np.random.default_rng(2).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    observations, _ = READER.read({**NESTED, "images": {"image": large, "wrist_image": WRIST}})
    np.testing.assert_array_equal(observations["images"]["image"], resize_frames(large[None], 64, 64))


def test_pictures_get_the_names_that_the_policy_looks_for() -> None:
    reader = RequestReader(SPEC, FeatureMap({"wrist_image": "gripper"}), max_batch=3)
    for name in ("gripper", "wrist_image"):
        observations, _ = reader.read({**NESTED, "images": {"image": SCENE, name: WRIST}})
        np.testing.assert_array_equal(observations["images"]["gripper"], WRIST[None])
    assert match_cameras(("a", "b"), ("b", "c", "a"), SAME_NAMES) == {"a": "a", "b": "b"}


def test_a_batch_is_rows_of_observations() -> None:
    message = {
        "images": {"image": np.stack([SCENE, WRIST]), "wrist_image": np.stack([WRIST, SCENE])},
        "state": np.stack([STATE, STATE + 1]),
        "instruction": ["go", "stop"],
    }
    observations, is_batch = READER.read(message)
    assert is_batch
    np.testing.assert_array_equal(observations["images"]["image"], message["images"]["image"])
    np.testing.assert_array_equal(observations["state"], message["state"])
    assert observations["instruction"] == ["go", "stop"]


def test_a_policy_that_looks_at_no_state_needs_none() -> None:
    blind = RequestReader(
        PolicySpec(PANDA_EEF, uses_state=False, chunk_horizon=4, execute_steps=4, unit_steps=()), SAME_NAMES, 3
    )
    for message in (NESTED, {"images": NESTED["images"], "instruction": "go"}):
        assert blind.read(message)[0]["state"].tolist() == [[0.0] * 8]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({}, "an observation has images, state and instruction; or .*this one has nothing"),
        ({"pixels": 1}, "this one has pixels"),
        ({**NESTED, "images": {"image": SCENE}}, "no picture for the policy's camera 'wrist_image'.*has image"),
        ({**NESTED, "images": {"image": SCENE, "left": WRIST, "right": WRIST}}, "no picture for the policy's camera"),
        ({**NESTED, "images": SCENE}, "images is no dictionary"),
        ({**NESTED, "images": {b"image": SCENE}}, "images is no dictionary"),
        ({**NESTED, "images": {"image": SCENE, "wrist_image": WRIST[..., 0]}}, "wrist_image: expected a picture"),
        ({**NESTED, "images": {"image": SCENE * 300.0, "wrist_image": WRIST}}, r"are in \[0, 1\]"),
        ({**NESTED, "state": STATE[:7]}, "the state has 7 numbers, and the policy takes 8"),
        ({**NESTED, "state": STATE * np.nan}, "state holds NaN"),
        ({**NESTED, "state": {"x": 1}}, "state must be numbers"),
        ({**NESTED, "instruction": None}, "instruction must be text"),
        ({"images": NESTED["images"], "state": STATE}, "instruction must be text"),
        ({**FORMS["lerobot"], "task": [5]}, "task must be text"),
        ({**FORMS["libero"], "prompt": b"go"}, "prompt must be text"),
        ({**NESTED, "instruction": []}, "1 to 3 observations .* not 0"),
        ({**NESTED, "instruction": ["go"] * 4}, "1 to 3 observations .* not 4"),
        ({**NESTED, "instruction": ["go", "go"]}, "no array of 2 rows"),
    ],
)
def test_a_wrong_request_is_answered_in_words(message: dict[str, Any], words: str) -> None:
    with pytest.raises(ReflexError, match=words):
        READER.read(message)
