"""A policy that is served decides as it does in process: the same episodes, byte for byte."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from real_robot.serving.command import ServeConfig
from real_robot.serving.server import ServerSettings, serving
from sim.contract import stack_observations
from sim.suites import get_suite
from tests.vla.policies.helpers import make_observations, small_policy
from vla.errors import ReflexError
from vla.evaluation.runner import EvaluationConfig, run_evaluation
from vla.policies import load_policy
from vla.policies.fingerprint import policy_fingerprint
from vla.policies.flow.configuration import FlowConfig
from vla.policies.flow.policy import FlowPolicy
from vla.policies.remote.keys import resize_with_padding
from vla.policies.remote.policy import RemotePolicy
from vla.rollout.collect import CollectConfig, collect
from vla.run.files import read_json

STARTS = re.compile(r"serving (\S+) for panda at (ws://127\.0\.0\.1:\d+)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    small_policy(execute_steps=4).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving(load_policy(folder), ServerSettings(port=0)) as served:
        yield served


def evaluation(policy: str, output: Path, **changes: Any) -> EvaluationConfig:
    settings: dict[str, Any] = {"suite": "tabletop", "tasks": [0, 3], "episodes_per_task": 2, "videos_per_task": 0}
    return EvaluationConfig(
        **({**settings, "policy": policy, "output": str(output), "num_workers": 0, "threads": 1} | changes)
    )


def test_an_evaluation_over_the_wire_is_that_in_process(folder: Path, address: str, tmp_path: Path) -> None:
    here = run_evaluation(evaluation(str(folder), tmp_path / "here"))
    there = run_evaluation(evaluation(address, tmp_path / "there"))
    episodes = [(tmp_path / name / "episodes.jsonl").read_bytes() for name in ("here", "there")]
    assert episodes[0] == episodes[1] and len(episodes[0].splitlines()) == 4
    assert here == there
    assert there["policy"] == "small" and there["policy_sha256"] == policy_fingerprint(load_policy(folder))
    # It goes on in process where it was left over the wire, since the weights are the same.
    assert run_evaluation(evaluation(str(folder), tmp_path / "there", resume=True)) == here


def test_a_policy_whose_actions_are_no_tokens_gives_the_same_numbers() -> None:
    """Rounding depends on the size of a batch, so that the batch must arrive as one."""
    torch.manual_seed(0)
    policy = FlowPolicy.on(small_policy(), FlowConfig()).eval()
    batch = make_observations(5, 16)
    with serving(policy, ServerSettings(port=0)) as address:
        remote = RemotePolicy.open(address)
        np.testing.assert_array_equal(remote.act(batch).actions, policy.act(batch).actions)
        remote.close()


def test_openpis_keys_lead_to_the_same_actions(folder: Path, address: str) -> None:
    suite = get_suite("tabletop")
    environment = suite.make(0)
    seen = []
    for state in range(3):
        environment.reset_to("eval", state)
        seen.append(environment.render_observation())
    environment.close()
    batch = stack_observations(seen)
    remote = RemotePolicy.open(f"{address}?keys=libero&chunk_horizon=4&execute_steps=4")
    try:
        actions = remote.act(batch).actions
    finally:
        remote.close()
    for camera, frames in batch["images"].items():  # pictures make a detour over openpi's 224 pixels
        batch["images"][camera] = np.stack([resize_with_padding(frame) for frame in frames])
    np.testing.assert_array_equal(actions, load_policy(folder).act(batch).actions)


def test_recording_over_the_wire_is_greedy_and_names_the_policy(folder: Path, address: str, tmp_path: Path) -> None:
    settings = CollectConfig(
        policy=address, tasks=[0], episodes_per_task=1, num_workers=0, output=str(tmp_path / "data")
    )
    record = read_json(collect(settings) / "meta" / "reflex_collection.json")
    assert record["policy"] == {"id": "small", "sha256": policy_fingerprint(load_policy(folder))}
    assert record["settings"]["policy"] == address


def test_sampling_is_refused_before_anything_runs(address: str, tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="a policy that is served decides greedily"):
        evaluation(address, tmp_path / "run", mode="sample")


def test_settings_of_the_command(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("word\n")
    config = ServeConfig(token_file=str(token), host="0.0.0.0", max_batch=4)
    assert config.server() == ServerSettings(token="word", host="0.0.0.0", max_batch=4)
    with pytest.raises(ReflexError, match="token or token_file, and not both"):
        ServeConfig(token="word", token_file=str(token))
    with pytest.raises(ReflexError, match="threads is 0"):
        ServeConfig(threads=0)


def test_the_command_serves_until_it_is_told_to_stop(folder: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("word")
    command = [sys.executable, "-m", "vla", "serve", f"policy={folder}", "suite=tabletop", "port=0", "threads=1"]
    with subprocess.Popen(
        [*command, f"token_file={token}"], stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "40"}
    ) as process:
        try:
            assert process.stderr is not None
            found = STARTS.search(process.stderr.readline())
            assert found is not None and found[1] == "small"
            remote = RemotePolicy.open(f"{found[2]}?token_file={token}&patience_s=0")
            assert remote.fingerprint == policy_fingerprint(load_policy(folder))
            with pytest.raises(ReflexError, match="HTTP 401, this server needs Authorization: Api-Key"):
                RemotePolicy.open(f"{found[2]}?patience_s=0")
            remote.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert "SIGTERM: answering what is under way" in process.stderr.read()
        finally:
            process.kill()


def test_the_first_frame_is_what_openpis_client_can_read(address: str) -> None:
    from websockets.sync.client import connect

    from vla.policies.remote.codec import decode_mapping

    with connect(address, proxy=None) as connection:
        metadata = decode_mapping(connection.recv(30))
    json.dumps(metadata)  # plain values only: a client without numpy reads it too
