"""IQL here against CORL's on the same data: how good the last policy is, over several seeds.

    python -m scripts.hopper_data output=hopper steps=150000
    python -m scripts.offline_parity data=hopper/steps_150000 corl=CORL/algorithms/offline/iql.py \\
        learners=float32,bfloat16,corl seeds=0,1,2,3 updates=50000 output=docs/results/offline_parity.json
    python -m scripts.offline_parity data=DATASET suite=tabletop_state task=0 corl=CORL/algorithms/offline/iql.py \\
        updates=5000 output=docs/results/offline_parity_tabletop.json

Runs that the output holds already are not repeated, so that it may be stopped and started again.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from scripts.hopper_data import ENVIRONMENT
from scripts.offline_peers import Corl, load_corl
from scripts.offline_study import CHUNK_HORIZON, Setup
from sim.contract import Suite
from sim.suites import get_suite
from vla.data.lerobot_keys import PROGRESS
from vla.offline.algorithms.iql import IQL
from vla.offline.sources import read_transitions
from vla.offline.training import OfflineSettings, OfflineTrainer
from vla.offline.transitions import Transitions, absorbing_ends, chunk_transitions, scale_rewards
from vla.run.files import write_json

DISCOUNT = 0.99
EVALUATIONS = 5
"""How often a run is evaluated, at equal distances; the last counts."""
EPISODES = 10
"""Of Hopper in an evaluation. A suite's task is evaluated from all its held-out initial states."""

Act = Callable[[NDArray[np.floating[Any]]], NDArray[np.float32]]
"""Observation [O] -> actions [H * A]."""


@dataclass(frozen=True)
class Problem:
    """Data that both learn from, and how what they learnt is judged."""

    data: Transitions
    """Of single steps."""
    chunk_horizon: int
    temperature: float
    judge: Callable[[Act], list[float]]
    """A policy -> the return, or the success, of each episode of an evaluation."""
    measure: str
    """What that is."""


def hopper_returns(act: Act) -> list[float]:
    """Of some episodes from the same initial states for everybody."""
    environment = gymnasium.make(ENVIRONMENT)
    found = []
    for seed in range(EPISODES):
        observation, _ = environment.reset(seed=10_000 + seed)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = environment.step(act(observation))
            total, over = total + float(reward), terminated or truncated
        found.append(total)
    return found


def successes(suite: Suite, task: int, act: Act) -> list[float]:
    """1 or 0 of each held-out initial state, in whole chunks of actions."""
    environment, size, found = suite.make(task), suite.embodiment.action.size, []
    for number in range(suite.num_init_states(task, "eval")):
        environment.reset_to("eval", number)
        outcome = None
        while outcome is None or not outcome.done:
            for action in act(environment.robot_state()).reshape(-1, size):
                outcome = environment.advance(suite.embodiment.action.clip(action))
                if outcome.done:
                    break
        found.append(float(outcome.success))
    environment.close()
    return found


def problem(arguments: Mapping[str, str]) -> Problem:
    """Hopper with its reward; of a suite's task its progress, as values in [-1, 0], in chunks of actions."""
    if "suite" not in arguments:
        return Problem(read_transitions(arguments["data"]), 1, 3.0, hopper_returns, "return")
    data = scale_rewards(read_transitions(arguments["data"], PROGRESS), "values", DISCOUNT)
    suite = get_suite(arguments["suite"], None)
    return Problem(
        absorbing_ends(data, DISCOUNT),
        CHUNK_HORIZON,
        Setup.temperature,
        partial(successes, suite, int(arguments["task"])),
        "success",
    )


def ours(trainer: OfflineTrainer) -> Act:
    """The policy as it is now."""
    policy = trainer.policy()

    def act(observation: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        state = observation[None].astype(np.float32)
        chosen: NDArray[np.float32] = policy.act({"images": {}, "state": state, "instruction": [""]}).actions[0]
        return chosen.ravel()

    return act


def run(learner: str, given: Problem, updates: int, seed: int, corl: Any) -> dict[str, Any]:
    """Train once; the record that is written."""
    every, curve, seconds = updates // EVALUATIONS, [], 0.0
    peer = trainer = None
    if learner == "corl":
        chunks = chunk_transitions(given.data, given.chunk_horizon, DISCOUNT)
        peer = Corl(corl, chunks, updates, seed, given.temperature)
    else:
        settings = OfflineSettings(
            IQL(temperature=given.temperature), updates=updates, chunk_horizon=given.chunk_horizon,
            precision=learner, device="cpu",  # type: ignore[arg-type] # checked there
        )  # fmt: skip
        trainer = OfflineTrainer(given.data, settings, seed)
    for _ in range(EVALUATIONS):
        started = time.process_time()
        if peer is not None:
            peer.run(every)
        else:
            assert trainer is not None
            trainer.run(every)
        seconds += time.process_time() - started
        found = given.judge(peer.act if peer is not None else ours(trainer))  # type: ignore[arg-type]
        curve.append({"mean": float(np.mean(found)), "episodes": [round(value, 1) for value in found]})
    return {"learner": learner, "seed": seed, "updates": updates, "cpu_seconds": round(seconds, 1), "curve": curve}


def same_start(data: Transitions, corl: Any, updates: int = 100) -> dict[str, Any]:
    """Losses here and of CORL from the same weights on the same batches: the arithmetic alone, without chance.

    In CORL the policy and the critics follow the value network as it was before its update, so this does too; the runs
    of whole trainings are in the order of IQL's authors, the default here.
    """
    settings = OfflineSettings(IQL(value_first=False), updates=updates, compiled=False, device="cpu")
    trainer, peer = OfflineTrainer(data, settings, 0), Corl(corl, data, updates, 0)
    for name, part in peer.state().items():
        for key, value in part.items():
            trainer.state[name][key].copy_(value)
    lines = []
    for number in range(updates):
        batch = trainer.batch(number)
        there = peer.losses([batch.observations, batch.actions, batch.rewards[:, None], batch.next_observations,
                             (batch.discounts == 0).float()[:, None]])  # fmt: skip
        here = trainer.run(1)
        lines.append({name: [here[f"train/{name}"], value] for name, value in there.items()})
    differences = {
        name: max(abs(line[name][0] - line[name][1]) / abs(line[name][1]) for line in lines) for name in lines[0]
    }
    return {"updates": updates, "greatest_relative_difference": differences, "last": lines[-1]}


def main() -> None:
    """All runs that are missing, and a summary."""
    arguments = dict(argument.split("=", 1) for argument in sys.argv[1:])
    output, updates = Path(arguments["output"]), int(arguments.get("updates", 50_000))
    torch.set_num_threads(1)
    given = problem(arguments)
    learners = arguments.get("learners", "float32,corl").split(",")
    corl = load_corl(Path(arguments["corl"])) if "corl" in learners else None
    record: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"runs": []}
    episode_returns = given.data.episode_returns()[given.data.episode_starts()]
    record["data"] = {
        "transitions": len(given.data),
        "episodes": len(episode_returns),
        "mean_return": round(float(episode_returns.mean()), 1),
        "best_return": round(float(episode_returns.max()), 1),
    }
    record["measure"] = given.measure
    if corl is not None and "same_start" not in record and given.chunk_horizon == 1:
        record["same_start"] = same_start(given.data, corl)
        print(record["same_start"], flush=True)
        write_json(output, record)
    for seed in map(int, arguments.get("seeds", "0,1,2,3").split(",")):
        for learner in learners:
            if any((old["learner"], old["seed"], old["updates"]) == (learner, seed, updates) for old in record["runs"]):
                continue
            result = run(learner, given, updates, seed, corl)
            print(
                learner, seed, [round(point["mean"], 2) for point in result["curve"]], result["cpu_seconds"], flush=True
            )
            record["runs"].append(result)
            record["last"] = {
                name: [old["curve"][-1]["mean"] for old in record["runs"] if old["learner"] == name]
                for name in sorted({old["learner"] for old in record["runs"]})
            }
            write_json(output, record)


if __name__ == "__main__":
    main()
