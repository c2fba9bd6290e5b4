"""Evaluations of a run on held-out initial states, and films of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sim.contract import Suite
from sim.pool import EnvironmentPool
from vla.evaluation.results import EvaluationResult
from vla.evaluation.runner import evaluate
from vla.rl.config import TrainConfig
from vla.rl.state import TrainingState
from vla.run.devices import in_float32
from vla.run.interrupts import held_interrupts
from vla.run.run_folder import RunFolder


class HeldOut:
    """A run's evaluations so far, and the next."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        state: TrainingState,
        pool: EnvironmentPool,
        suite: Suite,
        tasks: Sequence[int],
    ) -> None:
        self._config, self._run, self._state = config, run, state
        self._pool, self._suite, self._tasks = pool, suite, tasks
        self.lines = [line for line in run.read_metrics() if "eval/success_rate" in line]
        """Of `metrics.jsonl`, oldest first."""

    def evaluate_if_due(self, last: bool) -> dict[str, float] | None:
        """Held-out success, once for an iteration, also over a resume; its metrics, or None where none was due."""
        every, iteration = self._config.evaluate_every, self._state.counters.iteration
        if every == 0 or (iteration % every and not last):
            return None
        if self.lines and self.lines[-1]["step"] == iteration:
            return None
        started = time.perf_counter()
        result = self._evaluate(self._config.evaluation_episodes_per_task)
        metrics = {
            **result.metrics(),
            "progress/episodes": float(self._state.counters.episodes),
            "time/evaluation_seconds": time.perf_counter() - started,
        }
        with held_interrupts():
            self._run.append_episodes(result.records, step=iteration)
            self._run.append_metrics(iteration, metrics)  # last: without it the evaluation counts as not made
            self.lines.append({"step": iteration, **metrics})
        return metrics

    def film(self, phase: str) -> None:
        """Videos of the first held-out initial states under the present policy, for the report."""
        count = self._config.videos_per_task
        if count:
            self._evaluate(count, video_folder=self._run.videos_path / phase, videos_per_task=count)

    def target_reached(self) -> bool:
        """Whether the newest evaluation reached `target_success`."""
        target = self._config.target_success
        return target is not None and bool(self.lines) and self.lines[-1]["eval/success_rate"] >= target

    def summary(self) -> dict[str, Any]:
        """What the newest evaluation came to, and under "start" the first."""
        names = ("success_rate", "episodes", "wilson_low", "wilson_high")
        evaluations = [
            {name: line[f"eval/{name}"] for name in names} | {"episodes": int(line["eval/episodes"])}
            for line in self.lines
        ]
        return {**(evaluations[-1] if evaluations else {}), "start": evaluations[0] if evaluations else None}

    def _evaluate(self, episodes_per_task: int, **films: Any) -> EvaluationResult:
        """Greedy on held-out initial states, in float32 as `vla eval` is, so that the two agree."""
        with in_float32(self._state.policy, self._config.precision), self._state.averaged():
            return evaluate(
                self._state.policy,
                self._suite,
                self._pool,
                tasks=self._tasks,
                episodes_per_task=episodes_per_task,
                seed=self._config.seed,
                **films,
            )
