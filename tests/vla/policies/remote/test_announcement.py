"""What a server says of its policy arrives as it was, and nothing else passes for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sim.embodiments import PANDA_EEF
from vla.data.feature_map import FeatureMap
from vla.errors import ReflexError
from vla.policies.remote.announcement import Announcement, is_ours
from vla.policies.remote.codec import decode_mapping, encode

ANNOUNCEMENT = Announcement(
    policy_id="reflex-tiny",
    policy_sha256="ab" * 32,
    embodiment=PANDA_EEF,
    feature_map=FeatureMap({"wrist_image": "gripper_cam"}),
    uses_state=True,
    chunk_horizon=8,
    execute_steps=4,
    precision="float32",
    max_batch=32,
    max_message_bytes=1 << 24,
)


def test_it_arrives_over_the_wire_as_it_was() -> None:
    metadata = decode_mapping(encode(ANNOUNCEMENT.to_metadata()))
    assert is_ours(metadata)
    assert Announcement.from_metadata(metadata, "ws://host:8000") == ANNOUNCEMENT
    assert metadata["action_low"] == [-1.0] * 7
    assert metadata["protocol_hash"] == ANNOUNCEMENT.protocol_hash


def test_its_hashes_change_with_what_they_are_of() -> None:
    other_weights = replace(ANNOUNCEMENT, policy_sha256="cd" * 32)
    assert other_weights.protocol_hash == ANNOUNCEMENT.protocol_hash
    assert other_weights.fingerprint != ANNOUNCEMENT.fingerprint == "ab" * 32
    for change in ({"chunk_horizon": 9}, {"execute_steps": 3}, {"uses_state": False}, {"precision": "bfloat16"}):
        assert replace(ANNOUNCEMENT, **change).protocol_hash != ANNOUNCEMENT.protocol_hash  # type: ignore[arg-type]
    assert replace(ANNOUNCEMENT, precision="bfloat16").fingerprint not in ("ab" * 32, other_weights.fingerprint)
    assert replace(ANNOUNCEMENT, max_batch=1).protocol_hash == ANNOUNCEMENT.protocol_hash


def test_openpis_metadata_is_not_ours() -> None:
    assert not is_ours({}) and not is_ours({"reset_pose": [0.0]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol_version": 2}, "speaks version 2 .* and this client version 1"),
        ({"protocol_version": None}, "speaks version None"),
        ({"policy_id": ""}, "policy_id must be text"),
        ({"policy_id": "x" * 300}, "policy_id must be text"),
        ({"embodiment": {"name": "arm"}}, "lacks or garbles"),
        ({"embodiment": 5}, "describes its policy wrongly|lacks or garbles"),
        ({"feature_map": {"camera": {}}}, "feature_map.camera"),
        ({"chunk_horizon": 0}, "chunk_horizon must be a whole number"),
        ({"chunk_horizon": True}, "chunk_horizon must be a whole number"),
        ({"chunk_horizon": 1 << 40}, "at most 10000"),
        ({"execute_steps": 9}, "executes more steps than a chunk has"),
        ({"max_batch": "32"}, "max_batch must be a whole number"),
        ({"precision": "int4"}, "precision must be one of"),
    ],
)
def test_a_wrong_one_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        Announcement.from_metadata({**ANNOUNCEMENT.to_metadata(), **changes}, "ws://host:8000")


def test_so_is_one_that_lacks_something() -> None:
    metadata = ANNOUNCEMENT.to_metadata()
    for key in ("policy_sha256", "embodiment", "feature_map", "uses_state", "chunk_horizon", "max_message_bytes"):
        with pytest.raises(ReflexError, match=f"describes its policy wrongly: '{key}'"):
            Announcement.from_metadata({name: value for name, value in metadata.items() if name != key}, "ws://h")
