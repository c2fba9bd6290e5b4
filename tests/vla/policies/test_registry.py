"""What is no policy of ours is said to be none, in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vla.errors import ReflexError
from vla.policies import load_policy


@pytest.mark.parametrize("inside", ["", "policy"])
def test_a_published_checkpoint_is_said_to_be_unsupported(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "openvla", "n_action_bins": 256}))
    with pytest.raises(ReflexError, match=r"is a checkpoint of model_type 'openvla': .*OpenVLA-OFT.* cannot be loaded"):
        load_policy(tmp_path)


def test_so_is_a_hub_id() -> None:
    with pytest.raises(ReflexError, match=r"no policy 'moojink/openvla-7b-oft'.*; published checkpoints .* cannot be"):
        load_policy("moojink/openvla-7b-oft")


def test_a_path_that_is_not_there_is_just_that() -> None:
    with pytest.raises(ReflexError) as failure:
        load_policy("/no/such/policy")
    assert "published checkpoints" not in str(failure.value)
