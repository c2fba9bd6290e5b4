"""`vla online`: what `vla offline` learnt goes on learning in a suite, in a run folder, resumable round for round."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sim.contract import Suite
from sim.pool import EnvironmentPool
from sim.suites import get_suite
from vla.errors import ReflexError
from vla.evaluation.runner import evaluate
from vla.offline.online.playing import play_round, training_requests
from vla.offline.online.replay import read_round, write_round
from vla.offline.online.rewards import EpisodeReward, reward_of
from vla.offline.online.settings import RESUME_MAY_CHANGE, OnlineConfig
from vla.offline.online.start import Start, check_start, read_start
from vla.offline.online.training import OnlineTrainer
from vla.offline.sources import read_transitions
from vla.policies.connect import connected
from vla.policies.gaussian import GaussianPolicy
from vla.run.cores import worker_count
from vla.run.devices import set_threads
from vla.run.progress_bar import progress_bar
from vla.run.run_folder import RunFolder, run_name

MOST_SLOTS = 32
"""Episodes that are played at the same time, at most."""


def learn_online(config: OnlineConfig) -> dict[str, Any]:
    """Play and learn in turns and return the summary; checkpoints hold the policy in `checkpoints/<round>/policy`.

    Whenever it is stopped, it goes on from its last checkpoint and ends as a run that was not. Raises `ReflexError` for
    a start, settings and checkpoints that cannot be used.
    """
    set_threads(config.threads)
    start, suite = read_start(Path(config.start), config.settings, config.logs), get_suite(config.suite)
    slots = min(MOST_SLOTS, max(config.episodes_per_round, config.evaluation_episodes_per_task))
    with RunFolder(config.output, config.resume, config.logger) as run:
        settings = dataclasses.asdict(config)
        restart = run.restart_point(settings, RESUME_MAY_CHANGE)
        learner = OnlineRun(config, start, run, suite)
        run.write_config(settings)
        learner.open(restart)
        with EnvironmentPool(config.suite, slots, worker_count(config.num_workers, slots)) as pool:
            learner.run_rounds(pool)
        return learner.summarise()


class OnlineRun:
    """A run at the end of some round."""

    def __init__(self, config: OnlineConfig, start: Start, run: RunFolder, suite: Suite) -> None:
        """Read the logs; nothing was played. Raises `ReflexError` where start, logs and suite do not fit together."""
        self.config, self.start, self.run, self.suite = config, start, run, suite
        before = start.config
        self.tasks: Sequence[int] = config.tasks or before.tasks or suite.task_ids
        self.reward: EpisodeReward = reward_of(before.dataset, before.reward, suite.embodiment, config.reward_model)
        settings = dataclasses.replace(
            before.training_settings(), precision=config.precision, compiled=config.compiled, device=config.device
        )
        logs = read_transitions(before.dataset, before.reward, before.tasks)
        name = run_name(Path(config.output))
        self.trainer = OnlineTrainer(logs, settings, config.seed, name, config.logged_share)
        check_start(start, self.trainer)
        self._check_suite(self.trainer.policy())
        self.number = 0
        """Of the last whole round."""
        self.successes: list[bool] = []
        """Of the training rollouts, in order."""
        self.steps = 0
        """Control steps of the training rollouts."""

    def _check_suite(self, policy: GaussianPolicy) -> None:
        with connected(policy, self.suite.embodiment):
            pass
        unknown = [task for task in self.tasks if task not in self.suite.task_ids]
        if unknown:
            raise ReflexError(f"suite {self.suite.name} has no task {unknown[0]}; choose others with tasks=[...]")
        horizon = min(self.suite.horizon(task) for task in self.tasks)
        if horizon < policy.chunk_horizon:
            raise ReflexError(
                f"episodes of suite {self.suite.name} have {horizon} steps, and start={self.start.folder} decides on "
                f"chunks of {policy.chunk_horizon} actions; learn offline with a smaller chunk_horizon"
            )

    def open(self, restart: Path | None) -> None:
        """Go on from a checkpoint of this run, or else from the start. Raises `ReflexError` naming a damaged file."""
        self.trainer.load(self.start.checkpoint if restart is None else restart)
        self.number = 0 if restart is None else int(restart.name)
        self.run.truncate_after(-1 if restart is None else self.number)
        if restart is None:
            self._save()
        for record in self.run.read_episodes():
            self._count(record)
        for number in range(1, self.number + 1):
            self.trainer.add(read_round(self.run.path, number, self.suite.embodiment))

    def _count(self, record: dict[str, Any]) -> None:
        self.successes.append(bool(record["success"]))
        self.steps += int(record["steps"])

    def _save(self) -> None:
        self.run.save_checkpoint(self.number, self.trainer.save, keep=self.config.keep_checkpoints)

    def run_rounds(self, pool: EnvironmentPool) -> None:
        """Rounds until all episodes are played, or an evaluation reached the target."""
        with progress_bar("online RL", self.config.episodes, len(self.successes)) as show:
            while True:
                ended = len(self.successes) >= self.config.episodes
                rate = self._evaluate_if_due(pool, ended)
                target = self.config.target_success
                if ended or (target is not None and rate is not None and rate >= target):
                    return
                metrics = self._round(pool)
                show(len(self.successes), f"success {metrics['train/recent_success_rate']:.0%}")

    def _evaluate_if_due(self, pool: EnvironmentPool, last: bool) -> float | None:
        """Held-out success of the greedy policy after this round; None where none is due."""
        every = self.config.evaluate_every
        if not every or (self.number % every and not last):
            return None
        known = [line for line in self.run.read_metrics() if "eval/success_rate" in line]
        if known and known[-1]["step"] == self.number:
            return float(known[-1]["eval/success_rate"])
        policy, started = self.trainer.policy(), time.perf_counter()
        with connected(policy, self.suite.embodiment):
            result = evaluate(
                policy, self.suite, pool, tasks=self.tasks, seed=self.config.seed,
                episodes_per_task=self.config.evaluation_episodes_per_task,
            )  # fmt: skip
        metrics = {f"eval/{name}": float(value) for name, value in result.summary().items()}
        metrics |= {
            "progress/episodes": float(len(self.successes)),
            "time/evaluation_seconds": time.perf_counter() - started,
        }
        self.run.append_metrics(self.number, metrics)
        return metrics["eval/success_rate"]

    def _round(self, pool: EnvironmentPool) -> dict[str, float]:
        """Play, keep what was played, learn from it, write what came of it, and a checkpoint; returns the metrics."""
        config, number, first = self.config, self.number + 1, len(self.successes)
        count = min(config.episodes_per_round, config.episodes - first)
        policy, started = self.trainer.policy(), time.perf_counter()
        requests = training_requests(self.suite, self.tasks, first, count, config.seed)
        with connected(policy, self.suite.embodiment):
            temperature = config.exploration_noise / policy.mean_deviation()
            played = play_round(policy, pool, self.suite, requests, self.reward, first=first, temperature=temperature)
        write_round(self.run.path, number, played.transitions)
        self.trainer.add(played.transitions)
        steps_before, rolled_out = self.steps, time.perf_counter()
        for record in played.records:
            self._count(record)
        updates = max(1, round(config.updates_per_step * (self.steps - steps_before)))
        metrics = self.trainer.run(updates)
        metrics |= {
            "train/success_rate": sum(self.successes[first:]) / count,
            "train/recent_success_rate": _mean(self.successes[-config.success_window :]),
            "progress/episodes": float(len(self.successes)),
            "progress/control_steps": float(self.steps),
            "progress/updates": float(self.trainer.done),
            "progress/played_transitions": float(self.trainer.played),
            "time/rollout_seconds": rolled_out - started,
            "time/update_seconds": (time.perf_counter() - rolled_out) / updates,
        }
        self.number = number
        self.run.append_episodes(played.records, step=number)
        self.run.append_metrics(number, metrics)
        self._save()
        return metrics

    def summarise(self) -> dict[str, Any]:
        """Write and return the headline numbers."""
        config, lines = self.config, self.run.read_metrics()
        evaluations = [line for line in lines if "eval/success_rate" in line]
        last: dict[str, Any] = evaluations[-1] if evaluations else {}
        summary: dict[str, Any] = {
            "algorithm": self.start.config.algo,
            "reward": self.start.config.reward,
            "start": str(self.start.checkpoint),
            "rounds": self.number,
            "episodes": len(self.successes),
            "control_steps": self.steps,
            "updates": self.trainer.done,
            "logged_transitions": self.trainer.logged,
            "played_transitions": self.trainer.played,
            "recent_success_rate": _mean(self.successes[-config.success_window :]),
            "success_window": config.success_window,
            "episodes_to": {
                f"{level:g}": episodes_to(self.successes, level, config.success_window)
                for level in config.success_levels
            },
            "start_success_rate": evaluations[0]["eval/success_rate"] if evaluations else None,
            **{
                f"eval_{name}": last.get(f"eval/{name}")
                for name in ("success_rate", "episodes", "wilson_low", "wilson_high")
            },
            "policy": str(self.run.checkpoints_path / str(self.number) / "policy"),
        }
        self.run.write_summary(summary)
        return summary


def episodes_to(successes: Sequence[bool], level: float, window: int) -> int | None:
    """Training rollouts until the success rate of the last `window` first was `level` or more; None where it never was.

    There is no such rate before `window` rollouts.
    """
    recent = 0
    for count, success in enumerate(successes, start=1):
        recent += success - (successes[count - 1 - window] if count > window else 0)
        if count >= window and recent >= level * window:
            return count
    return None


def _mean(successes: Sequence[bool]) -> float:
    return sum(successes) / len(successes) if successes else 0.0
