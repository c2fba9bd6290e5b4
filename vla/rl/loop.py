"""GRPO and SRPO: one trainer, in which the reward is the only difference.

An iteration: choose groups of rollouts from one initial state each, roll them out, score them, replace groups that
teach nothing, normalise rewards within each group, take clipped policy-gradient steps. An iteration is a function of
the seed, its number and the policy, so a run killed at any moment and resumed writes the metrics of one never killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console

from sim.contract import Suite
from sim.pool import EnvironmentPool
from vla.evaluation.protocol import Protocol
from vla.evaluation.report import write_report
from vla.evaluation.results import EvaluationResult
from vla.evaluation.runner import evaluate
from vla.policies import load_policy
from vla.rewards.models import RewardModel
from vla.rl.batch import Batch, Samples, TrainablePolicy, build_samples
from vla.rl.collection import collect_batch
from vla.rl.config import TrainConfig
from vla.rl.console import evaluation_line, iteration_line
from vla.rl.credit import Judges
from vla.rl.demonstration_starts import Lead, leads_of
from vla.rl.encoder import demonstration_rollouts
from vla.rl.sampler import last_success_rates, stream_generator
from vla.rl.setup import check_frame_memory, chosen_tasks, make_reward, make_suite, open_reference, open_state
from vla.rl.state import TrainingState, save_state
from vla.rl.update import learning_rate, update_policy
from vla.run.cores import available_cpus
from vla.run.devices import draw_beside, in_float32, resolve_device, set_threads, sharing_cores
from vla.run.interrupts import held_interrupts
from vla.run.run_folder import RunFolder
from vla.run.seeding import derive_seed, seed_everything


@dataclass(frozen=True)
class Components:
    """Where a run gets its parts from; other sources make the trainer work on other suites and policies."""

    suite_factory: str = "sim.suites:get_suite"
    """Import path of `(name, image_size) -> Suite`; the simulator processes import it as well."""
    load_policy: Callable[[str, str], TrainablePolicy] = load_policy
    """`(folder or name, device) -> policy`."""
    log: Callable[[str], None] = field(default_factory=lambda: Console(soft_wrap=True, highlight=False).print)
    """Where progress lines go."""


def train(config: TrainConfig, components: Components | None = None) -> dict[str, Any]:
    """Train a policy into the run folder `config.output`; returns the summary written there.

    Ctrl-C leaves a checkpoint of the last whole iteration and raises `KeyboardInterrupt`.

    Raises:
        ReflexError: something in the configuration, the policy or the run folder cannot be used.
        EnvironmentRequestError: the suite cannot serve the run.
        WorldModelError: the encoder cannot be loaded or trained.
    """
    started = time.perf_counter()
    components = components or Components()
    set_threads(config.threads)
    device = resolve_device(config.device)
    draw_beside(device)
    config = replace(config, device=str(device))
    seed_everything(derive_seed("train", config.seed) % 2**32)
    suite = make_suite(components.suite_factory, config)
    tasks = chosen_tasks(config, suite)
    workers = available_cpus() if config.num_workers is None else config.num_workers
    with RunFolder(config.output, resume=config.resume) as run:
        horizons = {task: suite.horizon(task) for task in tasks}
        state = open_state(run, config, components.load_policy, horizons)
        check_frame_memory(config, state.policy.spec, suite, tasks)
        run.write_config(asdict(config))
        run.write_protocol(Protocol.of(suite, "eval", "greedy", 1.0, config.seed).document())
        reference = open_reference(run, config, components.load_policy)
        slots = config.num_slots
        with EnvironmentPool(
            config.suite, slots, min(workers, slots), config.image_size, factory=components.suite_factory
        ) as pool:
            trainer = Trainer(config, run, suite, tasks, pool, state, reference, components, started)
            return trainer.run_to_the_end()


class Trainer:
    """A run in progress. `run_to_the_end` is the algorithm's outer loop, `iterate` one iteration."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        suite: Suite,
        tasks: list[int],
        pool: EnvironmentPool,
        state: TrainingState,
        reference: TrainablePolicy | None,
        components: Components,
        started: float,
    ) -> None:
        self.config, self.run, self.suite, self.tasks, self.pool = config, run, suite, tasks, pool
        self.state, self.reference, self.log = state, reference, components.log
        self._load_policy = components.load_policy
        self._init_states = {task: suite.num_init_states(task, "train") for task in tasks}
        self._clock_origin = started - state.progress.seconds
        self._first_iteration, self._first_iteration_clock = state.progress.iteration, 0.0
        self._success_rates = last_success_rates(run.read_episodes())
        self._leads: list[Lead] = []
        if config.algo.demonstration_starts:
            self._leads = leads_of(demonstration_rollouts(config, tasks, state.policy.spec.execute_steps))
        self._evaluations = [line for line in run.read_metrics() if "eval/success_rate" in line]

    def run_to_the_end(self) -> dict[str, Any]:
        """Iterate and evaluate until there is a reason to stop; checkpoint whatever happens in between."""
        fresh = self.state.saved_iteration < 0
        reward = make_reward(
            self.config,
            self.run,
            self.state,
            self.pool,
            self.suite,
            self.tasks,
            self._load_policy,
            fresh=fresh,
            log=self.log,
        )
        if fresh:
            self.checkpoint()
            self.film("sft")
        self._first_iteration_clock = self.seconds
        try:
            while True:
                reason = self.reason_to_stop()
                self.evaluate_if_due(last=reason is not None)
                reason = reason or self.target_reached()
                if reason is not None:
                    break
                self.iterate(reward)
        except KeyboardInterrupt:
            self.checkpoint()
            self.log(
                f"stopped after iteration {self.state.progress.iteration}; {self.run.path} holds a whole checkpoint"
            )
            raise
        self.checkpoint()
        self.film("grpo" if self.config.algo.reward == "binary" else self.config.algo.reward)
        summary = self.summarise(reason)
        write_report(self.run.path)
        return summary

    def iterate(self, reward: RewardModel) -> None:
        """One iteration: batch, update, record."""
        config, algo, state, iteration = self.config, self.config.algo, self.state, self.state.progress.iteration
        started = time.perf_counter()
        torch.manual_seed(derive_seed("torch", config.seed, iteration))
        state.policy.eval()
        with sharing_cores():
            batch = collect_batch(
                state.policy,
                self.pool,
                self.suite,
                reward,
                self._init_states,
                algo,
                seed=config.seed,
                iteration=iteration,
                success_rates=self._success_rates,
                leads=self._leads,
                judges=Judges(state.critic, state.implicit, self.reference, state.averaged),
                embed_beside=config.device.startswith("cuda"),
            )
        generator = stream_generator("samples", config.seed, iteration)
        samples, replayed = self._samples(batch, generator)
        with held_interrupts():  # from here on the policy changes; the record must follow
            update_started = time.perf_counter()
            update = {"update/samples": 0.0, "update/learning_rate": learning_rate(algo, iteration)}
            if samples is not None:
                update = update_policy(
                    state.policy,
                    state.optimiser,
                    samples,
                    algo,
                    iteration=iteration,
                    generator=generator,
                    reference=self.reference if algo.kl_weight > 0 else None,
                )
            if state.replay is not None:
                update["update/replayed"] = float(replayed)
            update |= self._remember(batch)
            progress = state.progress
            progress.iteration += 1
            if state.average is not None:
                state.average.update(progress.iteration)
            progress.episodes += len(batch.rollouts)
            progress.control_steps += sum(int(rollout.record["steps"]) for rollout in batch.rollouts)
            progress.seconds = self.seconds
            now = time.perf_counter()
            times = {"time/update_seconds": now - update_started, "time/iteration_seconds": now - started}
            metrics = self._record(batch, {**batch.metrics, **update, **times})
            if progress.iteration % config.checkpoint_every == 0:
                self.checkpoint()
        self.log(iteration_line(progress.iteration, config.iterations, metrics, self._seconds_left()))

    def _samples(self, batch: Batch, generator: np.random.Generator) -> tuple[Samples | None, int]:
        """What the update learns from, and how many of that are of earlier iterations."""
        algo = self.config.algo
        samples = build_samples(
            batch.rollouts, batch.decision_advantages, algo.aggregation, algo.max_samples_per_update, generator
        )
        if self.state.replay is None or samples is None:
            return samples, 0
        drawing = stream_generator("replay", self.config.seed, self.state.progress.iteration)
        again = self.state.replay.samples(self.state.policy, type(samples.inputs), algo, drawing)
        return (samples, 0) if again is None else (Samples.concatenate([samples, again]), len(again))

    def _remember(self, batch: Batch) -> dict[str, float]:
        """What is kept of a batch beside the policy: critic, judge, successes. Returns what there is to say of it."""
        state, iteration = self.state, self.state.progress.iteration
        metrics: dict[str, float] = {}
        if state.critic is not None:
            state.critic.learn(batch.rollouts, batch.rewards)
        if state.implicit is not None:
            pairing = stream_generator("pairs", self.config.seed, iteration)
            metrics = state.implicit.learn(batch.rollouts, batch.successes, batch.groups, pairing)
        if state.replay is not None:
            state.replay.add(batch.rollouts)
        if state.bank is not None:
            state.bank.add(iteration, np.stack(batch.embeddings), batch.successes, batch.task_ids)
        return metrics

    def _record(self, batch: Batch, measured: dict[str, float]) -> dict[str, float]:
        """Write an iteration's metrics and episodes; returns the metrics."""
        progress = self.state.progress
        metrics = {
            **measured,
            "progress/episodes": float(progress.episodes),
            "progress/control_steps": float(progress.control_steps),
            "time/total_seconds": progress.seconds,
        }
        self.run.append_metrics(progress.iteration, metrics)
        lines = [
            {**rollout.record, "group": group, "reward": float(value), "lead_steps": rollout.lead_steps}
            for rollout, group, value in zip(batch.rollouts, batch.groups, batch.rewards, strict=True)
        ]
        self.run.append_episodes(lines, step=progress.iteration)
        self._success_rates |= last_success_rates({**line, "step": progress.iteration} for line in lines)
        return metrics

    def evaluate_if_due(self, last: bool) -> None:
        """Held-out success, once for an iteration, also over a resume."""
        config, iteration = self.config, self.state.progress.iteration
        if config.evaluate_every == 0 or (iteration % config.evaluate_every and not last):
            return
        if self._evaluations and self._evaluations[-1]["step"] == iteration:
            return
        started = time.perf_counter()
        result = self.evaluate(config.evaluation_episodes_per_task)
        metrics = {
            **result.metrics(),
            "progress/episodes": float(self.state.progress.episodes),
            "time/evaluation_seconds": time.perf_counter() - started,
        }
        with held_interrupts():
            self.run.append_episodes(result.records, step=iteration)
            self.run.append_metrics(iteration, metrics)  # last: without it the evaluation counts as not made
            self._evaluations.append({"step": iteration, **metrics})
        self.log(evaluation_line(iteration, metrics))

    def film(self, phase: str) -> None:
        """Videos of the first held-out initial states under the present policy, for the report."""
        count = self.config.videos_per_task
        if count:
            self.evaluate(count, video_folder=self.run.videos_path / phase, videos_per_task=count)

    def evaluate(self, episodes_per_task: int, **films: Any) -> EvaluationResult:
        """Greedy on held-out initial states, in float32 as `vla eval` is, so that the two agree."""
        with in_float32(self.state.policy, self.config.precision), self.state.averaged():
            return evaluate(
                self.state.policy,
                self.suite,
                self.pool,
                tasks=self.tasks,
                episodes_per_task=episodes_per_task,
                seed=self.config.seed,
                **films,
            )

    def reason_to_stop(self) -> str | None:
        """ "iterations" or "minutes" when that limit is reached."""
        if self.state.progress.iteration >= self.config.iterations:
            return "iterations"
        if self.config.max_minutes is not None and self.seconds >= 60 * self.config.max_minutes:
            return "minutes"
        return None

    def target_reached(self) -> str | None:
        """ "target" when the newest evaluation reached `target_success`."""
        target = self.config.target_success
        if target is None or not self._evaluations or self._evaluations[-1]["eval/success_rate"] < target:
            return None
        return "target"

    def checkpoint(self) -> None:
        """Save the state unless this iteration's is saved already."""
        if self.state.saved_iteration != self.state.progress.iteration:
            with held_interrupts():
                save_state(self.run, self.state, self.config.keep_checkpoints)

    def summarise(self, reason: str) -> dict[str, Any]:
        """Write and return `summary.json`."""
        progress = self.state.progress
        names = ("success_rate", "episodes", "wilson_low", "wilson_high")
        evaluations = [
            {name: line[f"eval/{name}"] for name in names} | {"episodes": int(line["eval/episodes"])}
            for line in self._evaluations
        ]
        summary: dict[str, Any] = {
            **(evaluations[-1] if evaluations else {}),
            "start": evaluations[0] if evaluations else None,
            "reward": self.config.algo.reward,
            "policy": str(self.run.checkpoints_path / "last"),
            "iterations": progress.iteration,
            "training_episodes": progress.episodes,
            "control_steps": progress.control_steps,
            "threads": torch.get_num_threads(),
            "wall_seconds": self.seconds,
            "stopped_by": reason,
        }
        self.run.write_summary(summary)
        return summary

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run so far, over all resumes."""
        return time.perf_counter() - self._clock_origin

    def _seconds_left(self) -> float:
        done = self.state.progress.iteration - self._first_iteration
        each = (self.seconds - self._first_iteration_clock) / max(done, 1)
        left = each * (self.config.iterations - self.state.progress.iteration)
        limit = self.config.max_minutes
        return left if limit is None else max(0.0, min(left, 60 * limit - self.seconds))
