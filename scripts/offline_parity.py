"""IQL here against CORL's on the same data: returns of the last policy over several seeds.

    python -m scripts.hopper_data output=hopper steps=150000
    python -m scripts.offline_parity data=hopper/steps_150000 corl=CORL/algorithms/offline/iql.py \\
        learners=float32,bfloat16,corl seeds=0,1,2,3 updates=50000 output=docs/results/offline_parity.json

Runs that the output holds already are not repeated, so that it may be stopped and started again.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from scripts.hopper_data import ENVIRONMENT
from scripts.offline_peers import Corl, load_corl
from vla.offline.algorithms.iql import IQL
from vla.offline.sources import read_transitions
from vla.offline.training import OfflineSettings, OfflineTrainer
from vla.offline.transitions import Transitions
from vla.run.files import write_json

EVALUATIONS = 5
"""How often a run is evaluated, at equal distances; the last counts."""
EPISODES = 10

Act = Callable[[NDArray[np.floating[Any]]], NDArray[np.float32]]


def returns(act: Act) -> list[float]:
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


def ours(trainer: OfflineTrainer) -> Act:
    """The policy as it is now."""
    policy = trainer.policy()

    def act(observation: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        state = observation[None].astype(np.float32)
        chosen: NDArray[np.float32] = policy.act({"images": {}, "state": state, "instruction": [""]}).actions[0, 0]
        return chosen

    return act


def run(learner: str, data: Transitions, updates: int, seed: int, corl: Any) -> dict[str, Any]:
    """Train once; the record that is written."""
    every, curve, seconds = updates // EVALUATIONS, [], 0.0
    peer = Corl(corl, data, updates, seed) if learner == "corl" else None
    trainer = None
    if peer is None:
        trainer = OfflineTrainer(data, OfflineSettings(updates=updates, precision=learner, device="cpu"), seed)  # type: ignore[arg-type]
    for _ in range(EVALUATIONS):
        started = time.process_time()
        if peer is not None:
            peer.run(every)
        else:
            assert trainer is not None
            trainer.run(every)
        seconds += time.process_time() - started
        found = returns(peer.act if peer is not None else ours(trainer))  # type: ignore[arg-type]
        curve.append({"mean": float(np.mean(found)), "returns": [round(value, 1) for value in found]})
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
    data = read_transitions(arguments["data"])
    learners = arguments.get("learners", "float32,corl").split(",")
    corl = load_corl(Path(arguments["corl"])) if "corl" in learners else None
    record: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"runs": []}
    episode_returns = data.episode_returns()[data.episode_starts()]
    record["data"] = {
        "transitions": len(data),
        "episodes": len(episode_returns),
        "mean_return": round(float(episode_returns.mean()), 1),
        "best_return": round(float(episode_returns.max()), 1),
    }
    if corl is not None and "same_start" not in record:
        record["same_start"] = same_start(data, corl)
        print(record["same_start"], flush=True)
        write_json(output, record)
    for seed in map(int, arguments.get("seeds", "0,1,2,3").split(",")):
        for learner in learners:
            if any((old["learner"], old["seed"], old["updates"]) == (learner, seed, updates) for old in record["runs"]):
                continue
            result = run(learner, data, updates, seed, corl)
            print(learner, seed, [round(point["mean"]) for point in result["curve"]], result["cpu_seconds"], flush=True)
            record["runs"].append(result)
            record["last_returns"] = {
                name: [old["curve"][-1]["mean"] for old in record["runs"] if old["learner"] == name]
                for name in sorted({old["learner"] for old in record["runs"]})
            }
            write_json(output, record)


if __name__ == "__main__":
    main()
