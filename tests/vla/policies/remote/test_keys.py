"""Observations under the keys of openpi's examples, there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim.contract import Observation
from vla.errors import ReflexError
from vla.policies.observations import as_picture
from vla.policies.remote.keys import LIBERO, PRESETS, SIDE, numbers, preset_of, resize_with_padding, text

OPENPI_RESIZED = [
    [0, 0, 2, 5, 7, 9, 0, 0],
    [0, 8, 10, 13, 15, 17, 0, 0],
    [0, 17, 19, 22, 24, 26, 0, 0],
    [0, 26, 28, 31, 33, 35, 0, 0],
    [0, 35, 37, 40, 42, 44, 0, 0],
    [0, 44, 46, 49, 51, 53, 0, 0],
    [0, 53, 55, 58, 60, 62, 0, 0],
    [0, 60, 62, 65, 67, 69, 0, 0],
]
"""Red of 72 ascending numbers [6, 4, 3] in 8 by 8 pixels."""


def observation(name: str, side: int = SIDE) -> Observation:
    robot, generator = PRESETS[name].embodiment, np.random.default_rng(0)
    return Observation(
        images={camera: generator.integers(0, 255, (side, side, 3), dtype=np.uint8) for camera in robot.camera_names},
        state=generator.normal(size=robot.state.size).astype(np.float32),
        instruction="pick up the cup",
    )


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_written_is_read(name: str) -> None:
    sent = observation(name)
    message = PRESETS[name].write(sent)
    assert preset_of(message) == name
    read = PRESETS[name].read(message, as_picture)
    assert read["instruction"] == sent["instruction"]
    np.testing.assert_array_equal(read["state"], sent["state"])
    assert set(read["images"]) == set(sent["images"])
    for camera, picture in sent["images"].items():
        np.testing.assert_array_equal(read["images"][camera], picture)


def test_the_keys_are_openpis() -> None:
    assert set(PRESETS["libero"].write(observation("libero"))) == {
        "observation/image",
        "observation/wrist_image",
        "observation/state",
        "prompt",
    }
    droid = PRESETS["droid"].write(observation("droid"))
    assert droid["observation/joint_position"].shape == (7,)
    assert droid["observation/gripper_position"].shape == (1,)
    assert {"observation/exterior_image_1_left", "observation/wrist_image_left", "prompt"} <= set(droid)
    aloha = PRESETS["aloha"].write(observation("aloha"))
    assert aloha["images"]["cam_left_wrist"].shape == (3, SIDE, SIDE)
    assert aloha["state"].shape == (14,)


def test_a_picture_keeps_its_shape_between_black_borders() -> None:
    """The numbers are those of `openpi_client.image_tools.resize_with_pad` 0.1.2."""
    picture = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    resized = resize_with_padding(picture, 8)
    assert resized[:, :, 0].tolist() == OPENPI_RESIZED
    assert resize_with_padding(resized, 8) is resized


def test_large_pictures_are_sent_small() -> None:
    message = LIBERO.write(observation("libero", 256))
    assert message["observation/image"].shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation/state": None}, "observation/state is missing"),
        ({"observation/state": np.zeros(7)}, "must have 8 numbers, and has 7"),
        ({"observation/state": np.full(8, np.nan)}, "NaN or infinity"),
        ({"observation/state": "eight"}, "must be numbers"),
        ({"observation/state": [[1], [2, 3]]}, "must be numbers"),
        ({"observation/image": np.zeros((4, 4), np.uint8)}, "expected a picture"),
        ({"observation/image": np.zeros((0, 0, 3), np.uint8)}, "expected a picture"),
        ({"observation/image": "a file"}, "expected a picture"),
        ({"prompt": 5}, "prompt must be text, and is int"),
    ],
)
def test_wrong_parts_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        LIBERO.read({**LIBERO.write(observation("libero")), **changes}, as_picture)


def test_numbers_and_text_in_other_types() -> None:
    assert numbers("state", [1, 2.5]).tolist() == [1.0, 2.5]
    assert numbers("state", np.zeros((1, 2), np.float64)).shape == (2,)
    assert text("prompt", np.array("go")) == "go"


def test_no_preset() -> None:
    assert preset_of({"images": {}, "state": [], "instruction": "go"}) is None
