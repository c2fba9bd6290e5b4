"""Policies on disk: exact round trips, and one clear error for each way a folder can be damaged."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sim.embodiments import PANDA_EEF
from tests.vla.policies.helpers import generators, make_observations, sampled, small_policy, small_prismatic
from tests.vla.run.file_calls import FileCalls
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.errors import ReflexError
from vla.policies import TinyPolicy, load_policy
from vla.policies.registry import SHIPPED_WEIGHTS, shipped_names
from vla.run.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    policy = small_policy()
    policy.set_normalisation(np.full(7, -0.5), np.full(7, 0.25), np.full(8, -2.0), np.full(8, 3.0))
    policy.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_round_trip_is_exact(folder: Path) -> None:
    original = small_policy()
    loaded = TinyPolicy.from_pretrained(folder)
    assert loaded.has_normalisation and loaded.config == original.config
    assert loaded.normalisation.action_q99.tolist() == [0.25] * 7
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    original.set_normalisation(np.full(7, -0.5), np.full(7, 0.25), np.full(8, -2.0), np.full(8, 3.0))
    first = original.act(make_observations(3), sampled(1.6), generators(3))
    second = loaded.act(make_observations(3), sampled(1.6), generators(3))
    np.testing.assert_array_equal(first.decision, second.decision)
    np.testing.assert_array_equal(first.log_probs, second.log_probs)
    np.testing.assert_array_equal(first.actions, second.actions)


def test_a_policy_that_was_given_no_normalisation_has_none_when_it_is_read(tmp_path: Path) -> None:
    policy = small_policy().train()
    policy.has_normalisation = False
    policy.save_pretrained(tmp_path / "policy")
    loaded = TinyPolicy.from_pretrained(tmp_path / "policy")
    assert not loaded.has_normalisation
    assert not loaded.training
    with pytest.raises(ReflexError, match="elsewhere: no such policy folder"):
        TinyPolicy.from_pretrained(tmp_path / "elsewhere")


def test_weights_are_on_the_disk_before_the_folder_has_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = FileCalls(monkeypatch, tmp_path)
    small_policy(seed=1).save_pretrained(folder)
    aside, named = layer.at("replace", "policy", ".replaced-policy"), layer.at("replace", ".writing-policy", "policy")
    assert named == aside + 1 < layer.at("rmtree", ".replaced-policy")
    for name in ("config.json", "tokenizer.json", "normalisation.json", "model.safetensors"):
        assert layer.at("fsync", f".writing-policy/{name}") < aside


def test_saving_replaces_a_folder_and_leaves_nothing_beside_it(folder: Path) -> None:
    small_policy(seed=1).save_pretrained(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]
    expected = small_policy(seed=1).action_queries
    assert torch.equal(load_policy(folder).action_queries, expected)


def test_half_precision_storage_is_smaller_and_close(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(folder)
    policy.save_pretrained(tmp_path / "half", dtype="float16")
    sizes = [(path / "model.safetensors").stat().st_size for path in (tmp_path / "half", folder)]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = load_policy(tmp_path / "half")
    assert loaded.action_queries.dtype == torch.float32
    torch.testing.assert_close(loaded.action_queries, policy.action_queries, rtol=1e-3, atol=1e-3)
    with pytest.raises(ReflexError, match="int4"):
        policy.save_pretrained(tmp_path / "no", dtype="int4")
    assert not (tmp_path / "no").exists()


def test_truncated_weights_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ReflexError, match=r"model\.safetensors: the weights are truncated"):
        load_policy(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "normalisation.json", "model.safetensors"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ReflexError, match=name.replace(".", r"\.")):
        load_policy(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "normalisation.json"])
def test_damaged_json_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text('{"half')
    with pytest.raises(ReflexError, match=name.replace(".", r"\.")):
        load_policy(folder)


def test_unknown_configuration_field_is_named(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    with pytest.raises(ReflexError, match=r"config\.json: unknown policy configuration field colour"):
        load_policy(folder)


def test_weights_of_another_shape_or_with_nan_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = load_file(path)
    save_file({**whole, "action_queries": torch.zeros(3, 3)}, path)
    with pytest.raises(ReflexError, match=r"misshapen action_queries \[3, 3\]"):
        load_policy(folder)
    save_file({name: value for name, value in whole.items() if name != "action_queries"}, path)
    with pytest.raises(ReflexError, match="lacks action_queries"):
        load_policy(folder)
    save_file({**whole, "action_queries": whole["action_queries"] * float("nan")}, path)
    with pytest.raises(ReflexError, match="action_queries holds NaN"):
        load_policy(folder)


def test_load_policy_finds_checkpoints_and_names_what_it_knows(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", resume=False) as run:
        for step in (1, 2):
            policy = small_policy(step)

            def write(path: Path, policy: TinyPolicy = policy) -> None:
                policy.save_pretrained(path / "policy")

            run.save_checkpoint(step, write)
    assert torch.equal(load_policy(tmp_path / "run").action_queries, small_policy(2).action_queries)
    checkpoint = tmp_path / "run" / "checkpoints" / "1"
    assert torch.equal(load_policy(str(checkpoint)).action_queries, small_policy(1).action_queries)
    with pytest.raises(ReflexError, match="no policy 'nonsense'"):
        load_policy("nonsense")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReflexError, match=r"neither config\.json nor a checkpoint"):
        load_policy(tmp_path / "empty")


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_policies_load_and_are_small(name: str) -> None:
    policy = load_policy(name)
    assert policy.policy_id == name and policy.has_normalisation
    assert sum(path.stat().st_size for path in (SHIPPED_WEIGHTS / name).iterdir()) <= 12_000_000


def as_before_families(folder: Path, **changes: Any) -> None:
    """Turn a folder into one that a version without families wrote."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    assert values.pop("family") == "tiny"
    tower = values.pop("vision_tower")
    values = {"format": "reflex-prismatic-1", **values, "vision_towers": [tower]}
    constants = {
        "ground_words": True, "bin_layout": "uniform", "action_queries": "per_step", "attention": "bidirectional",
        "prompt_order": "text_first", "projector": "mlp", "vision_norm": True, "camera_embedding": True,
        "tokenizer": "words", "prompt_template": "{instruction}",
    }  # fmt: skip
    path.write_text(json.dumps(values | constants | changes))
    for name in ("embodiment.json", "feature_map.json"):
        (folder / name).unlink()


def test_a_folder_from_before_there_were_families_is_the_tiny_policy_for_the_panda(folder: Path) -> None:
    expected = load_policy(folder).act(make_observations(2))
    as_before_families(folder)
    loaded = load_policy(folder)
    assert isinstance(loaded, TinyPolicy)
    assert loaded.spec.embodiment == PANDA_EEF.with_image_size(16) and loaded.feature_map == SAME_NAMES
    np.testing.assert_array_equal(loaded.act(make_observations(2)).actions, expected.actions)
    loaded.save_pretrained(folder)
    np.testing.assert_array_equal(load_policy(folder).act(make_observations(2)).actions, expected.actions)


def test_an_old_folder_without_keypoints_is_prismatic_and_one_that_no_family_can_be_says_why(tmp_path: Path) -> None:
    policy = small_prismatic()
    policy.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    assert values.pop("family") == "prismatic"
    before = {"keypoints": 0, "keypoint_tokens": 8, "ground_words": False, "greedy_smoothing": 0.0}
    path.write_text(json.dumps({"format": "reflex-prismatic-1", **values, **before}))
    loaded = load_policy(tmp_path)
    np.testing.assert_array_equal(loaded.act(make_observations(2)).actions, policy.act(make_observations(2)).actions)
    path.write_text(json.dumps({**values, **before, "greedy_smoothing": 8.0}))
    with pytest.raises(ReflexError, match=r"config\.json: greedy_smoothing is 8\.0, and policies of the family"):
        load_policy(tmp_path)


def test_embodiment_and_feature_map_come_back_and_damage_is_named(folder: Path) -> None:
    policy = small_policy()
    policy.feature_map = FeatureMap({"image": "front"})
    policy.save_pretrained(folder)
    loaded = load_policy(folder)
    assert loaded.feature_map == policy.feature_map and loaded.spec.embodiment == policy.spec.embodiment
    for name in ("embodiment.json", "feature_map.json"):
        whole = (folder / name).read_text()
        (folder / name).write_text('{"weather": 1}')
        with pytest.raises(ReflexError, match=name.replace(".", r"\.")):
            load_policy(folder)
        (folder / name).write_text(whole)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("prismatik", r"config\.json: family is 'prismatik' \(did you mean 'prismatic'\?\)"),
        ("no.such.module:Policy", "cannot be imported"),
        ("json:JSONDecoder", r"which is no policy: it lacks from_pretrained"),
    ],
)
def test_a_family_that_is_none_is_named(folder: Path, family: str, message: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "family": family}))
    with pytest.raises(ReflexError, match=message):
        load_policy(folder)


def test_a_family_may_be_an_entry_point(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("my_family", "vla.policies.tiny:TinyPolicy", "reflex.plugins")
    monkeypatch.setattr("sim.plugins.entry_points", lambda group: [entry] if group == "reflex.plugins" else [])
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "family": "my_family"}))
    assert isinstance(load_policy(folder), TinyPolicy)
