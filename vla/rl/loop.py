"""GRPO and SRPO: one loop, in which the reward is the only difference.

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

from sim.pool import EnvironmentPool
from vla.evaluation.protocol import Protocol
from vla.evaluation.report import write_report
from vla.policies import load_policy
from vla.policies.protocol import TrainablePolicy
from vla.policies.sampling import GREEDY
from vla.rewards.reward import reward_class
from vla.rl.batch import Batch, Samples, build_samples
from vla.rl.collection import Collector
from vla.rl.config import TrainConfig
from vla.rl.console import evaluation_line, iteration_line
from vla.rl.encoder import demonstration_rollouts, prepare_encoder
from vla.rl.held_out import HeldOut
from vla.rl.parts import make_estimator, make_variants
from vla.rl.sampling import last_success_rates, stream_generator
from vla.rl.setup import (
    check_frame_memory,
    chosen_tasks,
    default_slots,
    make_suite,
    open_reward,
    open_state,
    policies_for,
    training_parts,
)
from vla.rl.state import TrainingState, save_state
from vla.rl.update import learning_rate, update_policy
from vla.run.cores import worker_count
from vla.run.devices import draw_beside, resolve_device, set_threads, sharing_cores
from vla.run.interrupts import held_interrupts
from vla.run.plugins import Part, settings_key
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
    algo = config.algo
    with RunFolder(config.output, config.resume, config.logger) as run:
        load_policy = policies_for(suite, components.load_policy, config.feature_map)
        state = open_state(run, config, load_policy)
        check_frame_memory(config, state.policy.spec, suite, tasks)
        run.write_config(asdict(config))
        run.write_protocol(Protocol.of(suite, "eval", GREEDY, config.seed).document())
        looks = reward_class(algo.reward).looks_at_rollouts
        stride = state.policy.spec.execute_steps
        demonstrations = demonstration_rollouts(config, tasks, stride) if looks or algo.variants else {}
        horizons = {task: suite.horizon(task) for task in tasks}
        parts = training_parts(run, config, state, load_policy, horizons, demonstrations)
        estimator, variants = make_estimator(parts), make_variants(parts)
        slots = config.num_slots or default_slots(suite)
        workers = worker_count(config.num_workers, slots)
        with EnvironmentPool(config.suite, slots, workers, config.image_size, factory=components.suite_factory) as pool:
            if looks and state.fresh:
                prepare_encoder(run, config, state, pool, suite, tasks, demonstrations, components.log)
            reward = open_reward(run, config, load_policy, demonstrations)
            init_states = {task: suite.num_init_states(task, "train") for task in tasks}
            collector = Collector(
                state.policy, pool, suite, reward, estimator, algo, init_states, variants, config.seed,
                embed_beside=config.device.startswith("cuda"),
            )  # fmt: skip
            reference = parts.reference() if algo.kl_coefficient else None
            return Loop(config, run, tasks, state, collector, reference, components.log, started).run_to_the_end()


class Loop:
    """A run in progress. `run_to_the_end` is the algorithm's outer loop, `iterate` one iteration."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        tasks: list[int],
        state: TrainingState,
        collector: Collector,
        reference: TrainablePolicy | None,
        log: Callable[[str], None],
        started: float,
    ) -> None:
        self.config, self.run, self.state, self.collector = config, run, state, collector
        self.reference, self.log = reference, log
        self.parts: list[Part] = [collector.estimator, collector.reward, *collector.variants]
        if not state.fresh:
            for part in self.parts:
                part.load(run.checkpoints_path / str(state.saved_iteration))
        self.held_out = HeldOut(config, run, state, collector.pool, collector.suite, tasks)
        self._clock_origin = started - state.counters.seconds
        self._first_iteration, self._first_iteration_clock = state.counters.iteration, self.seconds
        self._success_rates = last_success_rates(run.read_episodes())

    def run_to_the_end(self) -> dict[str, Any]:
        """Iterate and evaluate until there is a reason to stop; checkpoint whatever happens in between."""
        if self.state.fresh:
            self.state.counters.seconds = self.seconds  # what the encoder took counts, over a resume as well
            self.checkpoint()
            self.held_out.film("sft")
        self._first_iteration_clock = self.seconds
        try:
            while True:
                reason = self.reason_to_stop()
                evaluation = self.held_out.evaluate_if_due(last=reason is not None)
                if evaluation is not None:
                    self.log(evaluation_line(self.state.counters.iteration, evaluation))
                if reason is None and self.held_out.target_reached():
                    reason = "target"
                if reason is not None:
                    break
                self.iterate()
        except KeyboardInterrupt:
            self.checkpoint()
            self.log(
                f"stopped after iteration {self.state.counters.iteration}; {self.run.path} holds a whole checkpoint"
            )
            raise
        self.checkpoint()
        reward = settings_key(self.config.algo.reward)
        self.held_out.film("grpo" if reward == "binary" else reward)
        summary = self.summarise(reason)
        write_report(self.run.path)
        return summary

    def iterate(self) -> None:
        """One iteration: batch, update, record."""
        config, state, counters = self.config, self.state, self.state.counters
        started = time.perf_counter()
        torch.manual_seed(derive_seed("torch", config.seed, counters.iteration))
        state.policy.eval()
        with sharing_cores():
            batch = self.collector.collect(counters.iteration, self._success_rates)
        generator = stream_generator("samples", config.seed, counters.iteration)
        samples, more = self._samples(batch, generator)
        with held_interrupts():  # from here on the policy changes; the record must follow
            update_started = time.perf_counter()
            update = self._update(samples, generator) | more
            for part in (self.collector.estimator, *self.collector.variants):
                update |= part.learn(batch, counters.iteration)
            embeddings = np.stack(batch.embeddings)
            self.collector.reward.learn(counters.iteration, embeddings, batch.successes, batch.task_ids)
            counters.iteration += 1
            if state.average is not None:
                state.average.update(counters.iteration)
            counters.episodes += len(batch.rollouts)
            counters.control_steps += sum(
                rollout.lead_steps + int(rollout.record["steps"]) for rollout in batch.rollouts
            )
            counters.seconds = self.seconds
            now = time.perf_counter()
            times = {"time/update_seconds": now - update_started, "time/iteration_seconds": now - started}
            metrics = self._record(batch, {**batch.metrics, **update, **times})
            if counters.iteration % config.checkpoint_every == 0:
                self.checkpoint()
        self.log(iteration_line(counters.iteration, config.iterations, metrics, self._seconds_left()))

    def _samples(self, batch: Batch, generator: np.random.Generator) -> tuple[Samples | None, dict[str, float]]:
        """What the update learns from, and how many of that variants added."""
        algo = self.config.algo
        samples = build_samples(
            batch.rollouts, batch.decision_advantages, algo.aggregation, algo.max_samples_per_update, generator
        )
        if samples is None or not self.collector.variants:
            return samples, {}
        iteration = self.state.counters.iteration
        more = [variant.more_samples(samples, iteration) for variant in self.collector.variants]
        found = [part for part in more if part is not None]
        joined = Samples.concatenate([samples, *found]) if found else samples
        return joined, {"update/replayed": float(len(joined) - len(samples))}

    def _update(self, samples: Samples | None, generator: np.random.Generator) -> dict[str, float]:
        """The policy's update, where there is something to learn from."""
        algo, counters = self.config.algo, self.state.counters
        iteration, scale = counters.iteration, counters.learning_rate_scale
        if samples is None:
            return {"update/samples": 0.0, "update/learning_rate": learning_rate(algo, iteration, scale)}
        weight = algo.kl_coefficient
        for variant in self.collector.variants:
            weight = variant.kl_weight(weight)
        metrics = update_policy(
            self.state.policy,
            self.state.optimiser,
            samples,
            algo,
            iteration=iteration,
            generator=generator,
            reference=self.reference,
            kl_weight=weight,
            learning_rate_scale=scale,
        )
        if metrics["update/stopped_early"]:
            counters.learning_rate_scale /= 2
        return metrics

    def _record(self, batch: Batch, measured: dict[str, float]) -> dict[str, float]:
        """Write an iteration's metrics and episodes; returns the metrics."""
        counters = self.state.counters
        metrics = {
            **measured,
            "progress/episodes": float(counters.episodes),
            "progress/control_steps": float(counters.control_steps),
            "time/total_seconds": counters.seconds,
        }
        self.run.append_metrics(counters.iteration, metrics)
        lines = [
            {**rollout.record, "group": group, "reward": float(value), "lead_steps": rollout.lead_steps}
            for rollout, group, value in zip(batch.rollouts, batch.groups, batch.rewards, strict=True)
        ]
        self.run.append_episodes(lines, step=counters.iteration)
        self._success_rates |= last_success_rates({**line, "step": counters.iteration} for line in lines)
        return metrics

    def reason_to_stop(self) -> str | None:
        """ "iterations" or "minutes" when that limit is reached."""
        if self.state.counters.iteration >= self.config.iterations:
            return "iterations"
        if self.config.max_minutes is not None and self.seconds >= 60 * self.config.max_minutes:
            return "minutes"
        return None

    def checkpoint(self) -> None:
        """Save the state unless this iteration's is saved already."""
        if self.state.saved_iteration != self.state.counters.iteration:
            with held_interrupts():
                save_state(self.run, self.state, self.parts, self.config.keep_checkpoints)

    def summarise(self, reason: str) -> dict[str, Any]:
        """Write and return `summary.json`."""
        counters = self.state.counters
        summary: dict[str, Any] = {
            **self.held_out.summary(),
            "reward": self.config.algo.reward,
            "policy": str(self.run.checkpoints_path / "last"),
            "iterations": counters.iteration,
            "training_episodes": counters.episodes,
            "control_steps": counters.control_steps,
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
        done = self.state.counters.iteration - self._first_iteration
        each = (self.seconds - self._first_iteration_clock) / max(done, 1)
        left = each * (self.config.iterations - self.state.counters.iteration)
        limit = self.config.max_minutes
        return left if limit is None else max(0.0, min(left, 60 * limit - self.seconds))
