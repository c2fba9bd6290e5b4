"""From unlabelled logs to a policy: how good must a labeller be, and does the reward do anything at all?

For each task a mixed data set of some hundred episodes, whose rewards and successes are hidden. Pairs of moments are
labelled by the simulator's true order with a stated share of wrong answers; a reward is fitted to the labels; all
transitions get it; Implicit Q-Learning trains a policy on the true state. Beside it: the true reward, rewards that know
nothing, and imitation. The reward sees the state that the policy sees, so that what it lacks is due to the labels; in
one more arm it sees small pictures instead.

    python -m scripts.offline_study run OUTPUT --data FOLDER            # resumable; several may run side by side
    python -m scripts.offline_study summary OUTPUT docs/results/offline_study.json

Stated beforehand: preference learning counts as working on a task when, with up to 20 % of wrong answers, the mean
success over seeds is at least 90 % of that with the true reward, and lies above every control. Where a control comes as
far as the true reward, the task's data decides nothing about rewards, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sim.pool import EnvironmentPool
from sim.suites import get_suite
from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError
from vla.evaluation.runner import evaluate
from vla.evaluation.statistics import paired_bootstrap, wilson_interval
from vla.offline.algorithms.iql import IQL
from vla.offline.controls import CONTROLS, TRUE, as_control
from vla.offline.labels.oracle import OracleSettings, oracle_preferences
from vla.offline.labels.selection import uniform_pairs
from vla.offline.preferences import Answer, Pair
from vla.offline.reward_model.bench import true_progress
from vla.offline.reward_model.bradley_terry import FIRST, SECOND, TIE
from vla.offline.reward_model.fit import FitSettings, fit
from vla.offline.reward_model.relabel import RelabelConfig
from vla.offline.reward_model.rescale import to_unit_cost
from vla.offline.reward_model.rows import Rows, features_of, look_at, rows_of
from vla.offline.sources import lerobot_transitions
from vla.offline.training import OfflineSettings, train_offline
from vla.offline.transitions import Transitions, scale_rewards
from vla.policies.gaussian import GaussianPolicy
from vla.run.files import write_json
from vla.run.run_folder import lock


@dataclass(frozen=True)
class Setup:
    """A data set's task, and what was chosen for it."""

    suite: str
    task: int
    pairs: int = 2000
    """Labelled pairs. Asked of a model in one order, 2,000 are 4,000 calls of RL-VLM-F's two-stage prompt or 2,000 of
    the one-call prompt."""
    temperature: float = 100.0
    """Of IQL, for values in [-1, 0]. Chosen, as the number of pairs and the next two, on training states that the data
    has not."""


TASKS = {
    "tabletop_pick_red": Setup("tabletop_state", 0),
    "tabletop_stack": Setup("tabletop_state", 2),
    "tabletop_stack_goes_on": Setup("tabletop_state", 2, pairs=8000, temperature=300.0),
    "tabletop_push_left": Setup("tabletop_state", 5),
    "metaworld_drawer_open": Setup("metaworld_state", 19),
    "metaworld_sweep_into": Setup("metaworld_state", 46),
}
"""By data set. Recordings end at a success; those of the one that goes on, half a second later
(`vla collect after_success=10`)."""
ERRORS = {"labels_0": 0.0, "labels_10": 0.1, "labels_20": 0.2, "labels_30": 0.3}
SEEDS = (0, 1, 2)
PICTURES = {"pictures_0": 0.0}
"""The same, with a reward that sees the pictures of one camera only, and not what the policy is told. Of two cameras it
is the wrist's: from outside, a cube that is lifted hardly differs from one that is not, at 24 pixels a side."""
WEIGHTED = "true_weighted"
"""The true reward, with better episodes drawn more often (`episode_weighting=advantage`)."""
ARMS = (*ERRORS, *PICTURES, *CONTROLS, WEIGHTED)
UPDATES = 5_000
CHUNK_HORIZON = 4
"""At 20 Hz one action changes little, and what it changes is lost in the critics' errors; four actions do not."""


@dataclass(frozen=True)
class Task:
    """What all runs of one task share."""

    name: str
    transitions: Transitions
    """With the true reward: the simulator's progress after each step."""
    next_frames: NDArray[np.int64]
    """[N] the frame after it, or itself at an episode's last frame."""
    progress: NDArray[np.float32]
    """[frames] true progress of what each frame shows."""
    features: dict[str, NDArray[np.float32]]
    """[frames, F] of what a reward sees, by encoder: the state that the policy sees, or a camera's pictures."""
    rows: Rows
    recorded_progress: dict[int, NDArray[np.float32]]
    """By episode: progress after each action, as the data set has it."""
    goal: str


def load(folder: Path, name: str) -> Task:
    """A task's data set as arrays."""
    dataset = LeRobotDataset(folder / name, numbers=("next.progress",))
    transitions = lerobot_transitions(dataset, "next.progress")
    rows = rows_of(dataset)
    episodes = [dataset.episode(index, cameras=()) for index in range(dataset.num_episodes)]
    starts, lengths = np.array([rows.starts[number] for number in dataset.episode_numbers]).T
    last = lengths[transitions.episodes] - 1
    return Task(
        name=name,
        transitions=transitions,
        next_frames=starts[transitions.episodes] + np.minimum(transitions.frames + 1, last),
        progress=np.concatenate([true_progress(episode) for episode in episodes]),
        features={
            encoder: features_of(dataset, look_at(dataset, encoder, dataset.embodiment.camera_names[-1]))
            for encoder in ("state", "pixels")
        },
        rows=rows,
        recorded_progress={index: episode.progress for index, episode in enumerate(episodes)},
        goal=episodes[0].instruction,
    )


def learned_reward(task: Task, encoder: str, error: float, seed: int) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """The reward [N] of each transition, from labels with a share of errors, and what is known about it."""
    lengths = np.bincount(task.rows.episodes)
    moments = uniform_pairs(lengths, np.zeros(len(lengths)), TASKS[task.name].pairs, np.random.default_rng([seed, 21]))
    pairs = np.stack([task.rows.of(first for first, _ in moments), task.rows.of(second for _, second in moments)], 1)
    preferences = oracle_preferences(
        [Pair(first, second, task.goal) for first, second in moments],
        task.recorded_progress,
        OracleSettings(error_rate=error),
        seed,
    )
    numbers = {Answer.FIRST: FIRST, Answer.SECOND: SECOND, Answer.TIE: TIE}
    answers = np.array([numbers[preference.answer] for preference in preferences if preference.answer is not None])
    features = task.features[encoder]
    ensemble = fit(features, pairs, answers, task.rows.episodes, FitSettings(error_rate=error), seed)
    scores = ensemble.score_features(features).mean(axis=0)
    further = task.progress[pairs[:, 1]] - task.progress[pairs[:, 0]]
    apart = answers != TIE
    facts = {
        "pairs": len(pairs),
        "ties": int((~apart).sum()),
        "held_out_accuracy": ensemble.record.get("held_out_accuracy"),
        "true_order_accuracy": float(((scores[pairs[:, 1]] > scores[pairs[:, 0]]) == (further > 0))[apart].mean()),
    }
    rewards = scores[task.next_frames].astype(np.float32)
    return to_unit_cost(rewards, RelabelConfig.outliers)(rewards), facts


def settings_of(name: str, updates: int) -> OfflineSettings:
    """Of every run of a task but imitation."""
    return OfflineSettings(
        IQL(temperature=TASKS[name].temperature),
        updates=updates,
        chunk_horizon=CHUNK_HORIZON,
        reward_scale="values",
        ends="absorbing",
        precision="auto",
        device="cpu",
    )


def run_arm(task: Task, arm: str, seed: int, updates: int) -> dict[str, Any]:
    """One policy, trained and evaluated."""
    started = time.perf_counter()
    facts: dict[str, Any] = {}
    data = task.transitions
    settings = settings_of(task.name, updates)
    if arm in ERRORS or arm in PICTURES:
        encoder, error = ("state", ERRORS[arm]) if arm in ERRORS else ("pixels", PICTURES[arm])
        rewards, facts = learned_reward(task, encoder, error, seed)
        data = data.with_rewards(rewards)
    elif arm == WEIGHTED:
        settings = replace(settings, weighting="advantage")
    else:
        data, settings = as_control(arm, data, settings, seed, truth=data.rewards)
    policy = train_offline(data, settings, seed)
    trained = time.perf_counter()
    successes = successes_of(policy, TASKS[task.name])
    return {
        "task": task.name,
        "arm": arm,
        "seed": seed,
        "updates": updates,
        "successes": sum(successes),
        "episodes": len(successes),
        "by_initial_state": successes,
        "training_s": round(trained - started, 1),
        "evaluation_s": round(time.perf_counter() - trained, 1),
        **facts,
    }


def successes_of(policy: GaussianPolicy, setup: Setup) -> list[int]:
    """Success, 1 or 0, from every held-out initial state, greedily."""
    suite = get_suite(setup.suite, None)
    count = suite.num_init_states(setup.task, "eval")
    with EnvironmentPool(setup.suite, num_slots=count, num_workers=0) as pool:
        result = evaluate(policy, suite, pool, tasks=[setup.task], episodes_per_task=count)
    return [int(record["success"]) for record in result.records]


def run(output: Path, data: Path, tasks: list[str], arms: list[str], updates: int) -> None:
    """Every run that is not done and that no other process has under way, so that several can share them."""
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    for name in tasks:
        task = None
        for seed in SEEDS:
            for arm in arms:
                path = output / f"{name}-{arm}-{seed}.json"
                with outstanding(path) as mine:
                    if not mine:
                        continue
                    task = task or load(data, name)
                    twin = output / f"{name}-zero-{seed}.json"
                    if arm == "constant" and twin.exists() and scaled_alike(task, seed):
                        result = json.loads(twin.read_text()) | {"arm": arm, "same_run_as": "zero"}
                    else:
                        result = run_arm(task, arm, seed, updates)
                    write_json(path, result)
                print(f"{name} {arm} seed {seed}: {result['successes']}/{result['episodes']} "
                      f"({result['training_s']} s + {result['evaluation_s']} s)", flush=True)  # fmt: skip


def scaled_alike(task: Task, seed: int) -> bool:
    """Whether a constant reward is, at the scale of the runs, no reward: then a run of one is a run of the other."""
    nothing, constant = (
        scale_rewards(as_control(name, task.transitions, settings_of(task.name, 1), seed)[0], "values", IQL().discount)
        for name in ("zero", "constant")
    )
    return bool(np.array_equal(nothing.rewards, constant.rewards))


@contextmanager
def outstanding(path: Path) -> Iterator[bool]:
    """Whether a run is still to be done, and by this process: it is nobody else's meanwhile."""
    claim = path.with_suffix(".lock")
    claim.touch()
    try:
        descriptor = lock(claim)
    except ReflexError:
        yield False
        return
    try:
        yield not path.exists()
    finally:
        os.close(descriptor)


def summary(output: Path) -> dict[str, Any]:
    """Every run, and the mean over seeds with its interval, a row for each task and arm."""
    runs = [json.loads(path.read_text()) for path in sorted(output.glob("*.json"))]
    rows = []
    for task in TASKS:
        for arm in ARMS:
            chosen = [entry for entry in runs if (entry["task"], entry["arm"]) == (task, arm)]
            if not chosen:
                continue
            successes, episodes = (sum(entry[key] for entry in chosen) for key in ("successes", "episodes"))
            low, high = wilson_interval(successes, episodes)
            rates = [entry["successes"] / entry["episodes"] for entry in chosen]
            row = {"task": task, "arm": arm, "seeds": len(chosen), "success": round(successes / episodes, 4)}
            row |= {"interval": [round(low, 4), round(high, 4)], "by_seed": [round(rate, 3) for rate in rates]}
            for key in ("held_out_accuracy", "true_order_accuracy"):
                if key in chosen[0]:
                    row[key] = round(float(np.mean([entry[key] for entry in chosen])), 4)
            rows.append(row | beside_the_true_reward(chosen, runs))
    return {"setups": {name: asdict(setup) for name, setup in TASKS.items()}, "rows": rows, "runs": runs}


def beside_the_true_reward(chosen: list[dict[str, Any]], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """How an arm's runs compare with those of the true reward of the same task and seeds, state by state."""
    truth = {entry["seed"]: entry for entry in runs if entry["arm"] == TRUE and entry["task"] == chosen[0]["task"]}
    pairs = [(truth[entry["seed"]], entry) for entry in chosen if entry["seed"] in truth]
    if chosen[0]["arm"] == TRUE or not pairs:
        return {}
    one, other = ([success for pair in pairs for success in pair[side]["by_initial_state"]] for side in (0, 1))
    compared = paired_bootstrap(one, other)
    return {
        "of_true": round(sum(other) / max(sum(one), 1), 3),
        "difference_to_true": [round(value, 3) for value in (compared.difference, compared.low, compared.high)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("output", type=Path)
    running.add_argument("--data", type=Path, required=True)
    running.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    running.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    running.add_argument("--updates", type=int, default=UPDATES)
    showing = commands.add_parser("summary")
    showing.add_argument("output", type=Path)
    showing.add_argument("result", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.output, arguments.data, arguments.tasks, arguments.arms, arguments.updates)
    else:
        write_json(arguments.result, summary(arguments.output))


if __name__ == "__main__":
    main()
