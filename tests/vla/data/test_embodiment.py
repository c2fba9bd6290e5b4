"""What is made of any `info.json`: an embodiment, or one message."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.data.embodiment import find_features, infer_embodiment
from vla.errors import ReflexError

PATH = Path("demos/meta/info.json")
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 9), st.floats(allow_nan=False), st.sampled_from(["a", "video"])
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "names"]), inner, max_size=3)
    ),
    max_leaves=6,
)
FEATURE = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["video", "image", "float32", None]) | JSON,
        "shape": st.lists(st.sampled_from([1, 3, 3, 32, 48]), min_size=1, max_size=3) | JSON,
        "names": st.sampled_from([["height", "width", "channel"], ["channels", "height", "width"]]) | JSON,
        "info": st.just({"video.is_depth_map": True}) | JSON,
    },
)
KEYS = st.sampled_from(
    ["action", "actions", "observation.state", "state", "image", "observation.image", "observation.images.image", "x"]
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, FEATURE | JSON, max_size=6))
def test_any_features_are_a_robot_or_one_message(features: dict[str, Any]) -> None:
    with contextlib.suppress(ReflexError):
        robot = infer_embodiment(features, PATH, "arm", 20)
        found = find_features(features, PATH)
        assert list(found.cameras) == list(robot.camera_names)
        assert robot.action.size == features[found.action]["shape"][0]
        assert robot.state.size == (0 if found.state is None else features[found.state]["shape"][0])
        for camera in found.cameras.values():
            assert [camera.height, camera.width] in (
                features[camera.key]["shape"][:2],
                features[camera.key]["shape"][1:],
            )


@settings(max_examples=200, deadline=None)
@given(JSON, st.integers(1, 9))
def test_there_is_a_name_for_each_number_whatever_names_say(names: Any, size: int) -> None:
    features = {"action": {"dtype": "float32", "shape": [size], "names": names}}
    robot = infer_embodiment(features, PATH, "arm", 20)
    assert len(robot.action.names) == size
    assert all(isinstance(name, str) for name in robot.action.names)


def test_a_square_picture_of_three_pixels_is_what_its_names_say() -> None:
    shape = {"dtype": "image", "shape": [3, 5, 3]}
    for names, size in (
        (["channels", "height", "width"], (5, 3)),
        (["height", "width", "channels"], (3, 5)),
        (None, (3, 5)),
    ):
        camera = find_features({"action": {"shape": [1]}, "top": shape | {"names": names}}, PATH).cameras["top"]
        assert (camera.height, camera.width) == size


def test_a_dataset_without_commands_is_refused() -> None:
    with pytest.raises(
        ReflexError, match=r"info\.json has no feature 'action', only observation\.state, top; name the"
    ):
        find_features({"top": {}, "observation.state": {"shape": [2]}}, PATH)
