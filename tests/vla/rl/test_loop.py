"""The whole trainer on the fake suite: it learns, resumes exactly, stops when asked, and refuses what cannot work."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.fake_wandb import FakeWandb
from tests.fakes import HORIZON
from tests.vla.rl.helpers import components, load_fake_policy, resumable_config, small_config
from vla.errors import ReflexError
from vla.policies import TinyPolicy, reflex_tiny_config
from vla.rl.collection import Collector
from vla.rl.loop import Components, train
from vla.rollout.collect import CollectConfig, collect
from vla.run.interrupts import held_interrupts
from vla.run.run_folder import RunFolder, comparable_metrics

pytestmark = pytest.mark.timeout(600)  # every write is flushed to the disk, which a busy machine makes slow

ROOT = Path(__file__).parents[3]


def lines(run: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def train_and_die(output: Path, reward: str, iteration: int, decisions: int) -> None:
    """Train in another process, which SIGKILLs itself in that iteration: nothing gets to clean up."""
    arguments = [str(output), reward, str(iteration), str(decisions)]
    command = [sys.executable, "-m", "tests.vla.rl.run_train", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=500, check=False)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "algo",
    [
        {"algo_reward": "binary"},
        {"algo_reward": "srpo"},
        {"algo_advantage": "raft"},
        {"algo_advantage": "pacs"},
        {"algo_variants": ["salt"]},
        {"algo_variants": ["step_progress"]},
        {"algo_variants": ["oprl"]},
        {"algo_variants": ["webrl_replay"]},
        {"algo_variants": ["grpo_care"]},
    ],
)
def test_it_learns_on_held_out_initial_states(tmp_path, algo):
    config = small_config(
        tmp_path / "run", iterations=16, evaluate_every=16, evaluation_episodes_per_task=10,
        algo_group_size=8, algo_groups_per_iteration=9, algo_learning_rate=0.08, **algo,
    )  # fmt: skip
    summary = train(config, components())
    assert summary["start"]["success_rate"] <= 0.4
    assert summary["success_rate"] >= summary["start"]["success_rate"] + 0.4
    assert summary["iterations"] == 16 and summary["stopped_by"] == "iterations"
    assert load_fake_policy(str(tmp_path / "run/checkpoints/last/policy"), "cpu").gain > 0.25


def test_a_run_writes_what_the_run_folder_promises(tmp_path):
    messages: list[str] = []
    train(small_config(tmp_path / "run", algo_reward="srpo", checkpoint_every=2), components(messages))
    run = tmp_path / "run"
    metrics = lines(run)
    assert [(line["step"], "eval/success_rate" in line) for line in metrics] == [
        (0, True), (1, False), (2, False), (2, True), (3, False), (4, False), (4, True),
    ]  # fmt: skip
    for key in (
        "train/reward", "train/success_rate", "train/task_0", "groups/kept", "groups/dropped", "groups/stalled",
        "reward/clusters", "advantage/positive_failures", "progress/episodes", "time/rollout_seconds",
        "time/encode_seconds", "time/update_seconds",
    ):  # fmt: skip
        assert key in metrics[1], key
    learnt = next(line for line in metrics if line.get("update/samples", 0) > 0)
    assert {"update/kl", "update/clip_share", "update/entropy"} <= set(learnt)
    episodes = lines(run, "episodes.jsonl")
    trained = [line for line in episodes if line["split"] == "train"]
    assert len(trained) == metrics[-2]["progress/episodes"] and len(episodes) - len(trained) == 3 * 12
    assert all(line["reward"] == 1 for line in trained if line["success"])
    assert json.loads((run / "protocol.json").read_text())["split"] == "eval"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["0", "2", "4", "last"]
    assert sum("iteration" in message and "held-out" not in message for message in messages) == 4


def test_a_run_killed_and_resumed_has_the_metrics_of_one_never_killed(tmp_path):
    reward = "srpo"  # does all that "binary" does, and more
    killed, whole = tmp_path / "killed" / "run", tmp_path / "whole" / "run"  # policies are called as their runs are
    train_and_die(killed, reward, iteration=4, decisions=3)
    assert lines(killed)[-1]["step"] == 3, "iteration 3 was recorded, iteration 4 had begun"
    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == ["0", "2", "last"]
    train(resumable_config(killed, reward, resume=True), components())
    train(resumable_config(whole, reward), components())
    assert comparable_metrics(lines(killed)) == comparable_metrics(lines(whole))
    assert lines(killed, "episodes.jsonl") == lines(whole, "episodes.jsonl")
    policies = [(run / "checkpoints/6/policy/config.json").read_text() for run in (killed, whole)]
    assert policies[0] == policies[1]


def test_resuming_goes_on_where_a_finished_run_stopped(tmp_path):
    train(small_config(tmp_path / "long", iterations=4), components())
    train(small_config(tmp_path / "short", iterations=3), components())
    train(small_config(tmp_path / "short", iterations=4, resume=True), components())
    long, short = (comparable_metrics(lines(tmp_path / name)) for name in ("long", "short"))
    # The short run evaluated once more, where it first ended.
    assert [line for line in short if line["step"] != 3 or "eval/success_rate" not in line] == long


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"algo_variants": ["oprl"]}, "advantage/preference_loss"),
        ({"algo_variants": ["webrl_replay"], "algo_settings": {"webrl_replay": {"capacity": 2}}}, "update/replayed"),
    ],
)
def test_what_remembers_earlier_iterations_goes_on_over_a_resume(tmp_path, settings, said):
    settings = settings | {"evaluate_every": 0}
    train(small_config(tmp_path / "long", iterations=4, **settings), components())
    train(small_config(tmp_path / "short", iterations=2, **settings), components())
    train(small_config(tmp_path / "short", iterations=4, resume=True, **settings), components())
    long, short = (comparable_metrics(lines(tmp_path / name)) for name in ("long", "short"))
    assert short == long
    assert any(said in line for line in long)


def test_groups_go_on_from_demonstrations_and_a_resumed_run_chooses_the_same(tmp_path):
    collect_settings = CollectConfig(
        suite="fake", episodes_per_task=1, output=str(tmp_path / "demonstrations"), num_workers=1
    )
    collect(collect_settings, factory="tests.fakes:get_suite")
    settings = {
        "demonstrations": str(tmp_path / "demonstrations"), "evaluate_every": 0,
        "algo_variants": ["demonstration_starts"], "algo_settings": {"demonstration_starts": {"share": 0.5}},
    }  # fmt: skip
    whole, cut = tmp_path / "whole" / "run", tmp_path / "cut" / "run"  # policies are called as their runs are
    train(small_config(whole, iterations=4, **settings), components())
    train(small_config(cut, iterations=2, **settings), components())
    train(small_config(cut, iterations=4, resume=True, **settings), components())
    long, short = (lines(run, "episodes.jsonl") for run in (whole, cut))
    assert short == long
    led = [line for line in long if line["lead_steps"]]
    assert 0.4 < len(led) / len(long) < 0.6
    assert {line["init_state_id"] for line in led} == {0}
    assert all(line["steps"] + line["lead_steps"] <= HORIZON for line in led)
    simulated = sum(line["steps"] + line["lead_steps"] for line in long)
    assert lines(whole)[-1]["progress/control_steps"] == simulated


def test_updates_that_go_too_far_halve_the_learning_rate_over_a_resume_too(tmp_path):
    settings = {
        "algo_learning_rate": 0.5, "algo_target_kl": 1e-3, "algo_warmup_iterations": 0, "algo_minibatch_size": 8,
        "algo_reward": "srpo", "checkpoint_every": 2, "evaluate_every": 0,
    }  # fmt: skip
    messages: list[str] = []
    train(small_config(tmp_path / "run", iterations=4, **settings), components(messages))
    train(small_config(tmp_path / "half", iterations=2, **settings), components())
    train(small_config(tmp_path / "half", iterations=4, resume=True, **settings), components())
    updates = [line for line in lines(tmp_path / "run") if "update/stopped_early" in line]
    assert any("learning rate halved" in message for message in messages)
    rate = 0.5
    for line in updates:
        assert line["update/learning_rate"] == pytest.approx(rate)
        rate /= 2 if line["update/stopped_early"] else 1
    assert rate < 0.5
    assert comparable_metrics(lines(tmp_path / "half")) == comparable_metrics(lines(tmp_path / "run"))


def test_resuming_without_a_checkpoint_starts_over(tmp_path):
    RunFolder(tmp_path / "run").append_metrics(3, {"train/reward": 0.5})
    train(small_config(tmp_path / "run", iterations=1, resume=True), components())
    assert [line["step"] for line in lines(tmp_path / "run")] == [0, 1, 1]


def test_an_evaluation_cut_off_before_its_result_is_made_again_once(tmp_path):
    config = small_config(tmp_path / "run", iterations=2)
    train(config, components())
    whole = lines(tmp_path / "run"), lines(tmp_path / "run", "episodes.jsonl")
    metrics = (tmp_path / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run/metrics.jsonl").write_text("".join(metrics[:-1]))  # episodes written, result not
    train(small_config(tmp_path / "run", iterations=2, resume=True), components())
    assert comparable_metrics(lines(tmp_path / "run")) == comparable_metrics(whole[0])
    assert lines(tmp_path / "run", "episodes.jsonl") == whole[1]


def test_ctrl_c_leaves_a_whole_checkpoint_of_the_last_iteration(tmp_path, monkeypatch):
    original, calls = Collector.collect, []

    def interrupt_third(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **keywords)

    monkeypatch.setattr(Collector, "collect", interrupt_third)
    messages: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        train(small_config(tmp_path / "run", iterations=6, checkpoint_every=2), components(messages))
    assert RunFolder(tmp_path / "run", resume=True).last_checkpoint()[0] == 3  # checkpoints are due every 2
    assert "iteration 3" in messages[-1]
    train(small_config(tmp_path / "run", iterations=6, checkpoint_every=2, resume=True), components())
    train(small_config(tmp_path / "whole", iterations=6, checkpoint_every=2), components())
    assert comparable_metrics(lines(tmp_path / "run")) == comparable_metrics(lines(tmp_path / "whole"))


def test_an_interrupt_during_a_held_block_waits_for_its_end():
    steps = []
    with pytest.raises(KeyboardInterrupt), held_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("after the signal")
    assert steps == ["after the signal"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_settings_on_resume_are_refused_by_name(tmp_path):
    train(small_config(tmp_path / "run", iterations=1), components())
    with pytest.raises(ReflexError, match=r"seed \(was 0, now 1\)") as error:
        train(small_config(tmp_path / "run", seed=1, resume=True, algo_group_size=5), components())
    assert "algo.group_size (was 4, now 5)" in str(error.value)


def test_an_existing_run_is_not_overwritten(tmp_path):
    train(small_config(tmp_path / "run", iterations=1), components())
    with pytest.raises(ReflexError, match="resume=true"):
        train(small_config(tmp_path / "run", iterations=1), components())


def test_it_stops_at_the_target_and_at_the_time_limit(tmp_path):
    reached = train(small_config(tmp_path / "target", target_success=0.01, iterations=50), components())
    assert reached["stopped_by"] == "target" and reached["iterations"] < 50
    late = train(small_config(tmp_path / "minutes", max_minutes=1e-6, iterations=50), components())
    assert late["stopped_by"] == "minutes" and late["iterations"] == 0 and late["episodes"] == 12
    assert isinstance(late["episodes"], int), "a count, in summary.json too"


def test_a_run_that_cannot_fit_in_memory_is_refused_with_the_arithmetic(tmp_path):
    with pytest.raises(ReflexError, match=r"GB of frames \(48 rollouts x 5 decisions"):
        train(small_config(tmp_path / "run", max_frame_gigabytes=1e-6), components())


def test_unknown_task_and_too_many_evaluation_states_are_refused(tmp_path):
    with pytest.raises(ReflexError, match=r"tasks names \[7\].*0 to 2"):
        train(small_config(tmp_path / "a", tasks=[0, 7]), components())
    with pytest.raises(ReflexError, match="20 held-out initial states"):
        train(small_config(tmp_path / "b", evaluation_episodes_per_task=21), components())
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_a_damaged_optimiser_file_is_named(tmp_path):
    config = small_config(tmp_path / "run", iterations=1, checkpoint_every=1)
    train(config, components())
    path = tmp_path / "run/checkpoints/1/optimiser.pt"
    path.write_bytes(b"damaged")
    # A checkpoint that does not match its manifest is skipped: the run goes on from the one before.
    train(small_config(tmp_path / "run", iterations=1, checkpoint_every=1, resume=True), components())
    assert [line["step"] for line in lines(tmp_path / "run")] == [0, 1, 1]


def test_the_encoder_is_trained_once_on_first_rollouts_and_loaded_on_resume(tmp_path):
    """With the real suite and policy: scenes that move enough for latents not to collapse."""
    torch.manual_seed(0)
    TinyPolicy.from_config(reflex_tiny_config()).save_pretrained(tmp_path / "policy")
    settings = {
        "suite": "tabletop", "tasks": [0], "policy": str(tmp_path / "policy"), "encoder": "jepa", "encoder_steps": 40,
        "encoder_episodes_per_task": 6, "evaluate_every": 0, "checkpoint_every": 1, "num_slots": 6,
        "algo_reward": "srpo", "algo_groups_per_iteration": 1, "algo_max_sampling_rounds": 1, "algo_group_size": 2,
    }  # fmt: skip
    messages: list[str] = []
    train(small_config(tmp_path / "run", iterations=1, max_minutes=60, **settings), Components(log=messages.append))
    weights = tmp_path / "run/encoder/model.safetensors"
    before = weights.stat().st_mtime_ns
    assert "6 rollouts" in messages[0] and messages[0].endswith("its time counts towards max_minutes=60")
    seconds = json.loads((tmp_path / "run/checkpoints/0/progress.json").read_text())["seconds"]
    assert seconds > float(re.search(r"encoder trained in (\d+) s", messages[1])[1]) - 0.5, "also over a resume"
    assert lines(tmp_path / "run")[0]["progress/episodes"] == 6 + 2  # those for the encoder count
    train(small_config(tmp_path / "run", iterations=2, resume=True, **settings), Components(log=messages.append))
    assert weights.stat().st_mtime_ns == before
    assert lines(tmp_path / "run")[1]["progress/episodes"] == 6 + 2 + 2


def test_the_starting_policy_is_the_encoder_and_stays_it_over_a_resume(tmp_path):
    torch.manual_seed(0)
    TinyPolicy.from_config(reflex_tiny_config()).save_pretrained(tmp_path / "policy")
    settings = {
        "suite": "tabletop", "tasks": [0], "policy": str(tmp_path / "policy"), "encoder": "policy", "evaluate_every": 0,
        "checkpoint_every": 1, "num_slots": 4, "algo_reward": "calibrated", "algo_groups_per_iteration": 1,
        "algo_max_sampling_rounds": 1, "algo_group_size": 2,
    }  # fmt: skip
    whole = small_config(tmp_path / "whole", iterations=2, **settings)
    train(whole, Components(log=lambda _: None))
    train(small_config(tmp_path / "cut", iterations=1, **settings), Components(log=lambda _: None))
    kept = tmp_path / "cut/encoder/model.safetensors"
    before = kept.stat().st_mtime_ns
    train(small_config(tmp_path / "cut", iterations=2, resume=True, **settings), Components(log=lambda _: None))
    assert kept.stat().st_mtime_ns == before
    assert kept.read_bytes() == (tmp_path / "policy/model.safetensors").read_bytes()
    assert comparable_metrics(lines(tmp_path / "cut")) == comparable_metrics(lines(tmp_path / "whole"))


@pytest.mark.parametrize("encoder", ["proprioception", "true_progress"])
def test_rewards_can_see_where_the_arm_went_or_how_far_it_truly_came(tmp_path, encoder):
    settings = {"encoder": encoder, "algo_reward": "srpo"}
    train(small_config(tmp_path / "run", iterations=1, **settings), components())
    assert not (tmp_path / "run/encoder").exists()
    assert any(line.get("reward/centres", 0) > 0 for line in lines(tmp_path / "run"))


def test_metrics_go_to_the_logger_that_is_named(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(small_config(tmp_path / "run", iterations=2, evaluate_every=0, logger="wandb"), components())
    assert [step for step, _ in fake.logged] == [1, 2]
    assert fake.settings[0][0]["algo"]["reward"] == "binary"
    train(small_config(tmp_path / "quiet", iterations=1, evaluate_every=0), components())
    assert len(fake.logged) == 2
