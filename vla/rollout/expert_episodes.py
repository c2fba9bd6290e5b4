"""Evaluating a suite's scripted experts: `vla eval policy=expert`. Nothing is rendered, so it is quick.

Worker processes import this module, so it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sim.contract import FloatArray, ManipulationEnvironment, StepOutcome, Suite
from sim.pool.worker import EpisodeRequest, load_factory
from vla.data.episode import Episode
from vla.run.worker_processes import JobRunner

EXPERT = "expert"
"""Name of the experts where a policy's is asked for."""

ExpertEpisode = tuple[EpisodeRequest, int]
"""An episode to run, and the seed of its expert's variation."""


def run_experts(
    suite: str,
    image_size: int | None,
    episodes: Sequence[ExpertEpisode],
    num_workers: int,
    on_episode: Callable[[Episode], None],
    factory: str = "sim.suites:get_suite",
) -> None:
    """Run episodes in worker processes and hand out their records, without frames, as they finish.

    An episode whose worker died is run again and marked. Raises
    `EnvironmentRequestError` for a task without an expert, `ReflexError` when workers keep dying.
    """
    waiting = dict.fromkeys(episodes)

    def finished(done: ExpertEpisode, episode: Episode) -> None:
        del waiting[done]
        on_episode(episode)

    JobRunner(_run, _start, (factory, suite, image_size), num_workers).run(lambda: list(waiting), finished)


class _ExpertRunner:
    """Runs one episode after another, keeping the environment of the last task."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._environment: ManipulationEnvironment | None = None

    def run(self, wanted: EpisodeRequest, seed: int, restarted: bool) -> Episode:
        if self._environment is None or self._environment.task_id != wanted.task_id:
            if self._environment is not None:
                self._environment.close()
            self._environment = self._suite.make(wanted.task_id)
        environment = self._environment
        environment.reset_to(wanted.split, wanted.init_state_id)
        expert = self._suite.make_expert(wanted.task_id, seed)
        expert.reset(environment)
        states = [environment.robot_state()]
        actions: list[FloatArray] = []
        outcomes: list[StepOutcome] = []
        while not outcomes or not outcomes[-1].done:
            actions.append(np.asarray(expert.act(environment), dtype=np.float32))
            outcomes.append(environment.advance(actions[-1]))
            states.append(environment.robot_state())
        no_frames = np.zeros((len(states), 0, 0, 3), dtype=np.uint8)
        return Episode(
            suite=self._suite.name,
            task_id=wanted.task_id,
            instruction=environment.instruction,
            split=wanted.split,
            init_state_id=wanted.init_state_id,
            seed=seed,
            policy_id=EXPERT,
            success=outcomes[-1].success,
            actions=np.stack(actions),
            observation_steps=np.arange(len(states), dtype=np.int64),
            images=no_frames,
            wrist_images=no_frames,
            states=np.stack(states),
            rewards=np.array([outcome.success for outcome in outcomes], dtype=np.float32),
            costs=np.array([outcome.cost for outcome in outcomes], dtype=np.float32),
            progress=np.array([outcome.progress for outcome in outcomes], dtype=np.float32),
            worker_restarted=restarted,
        )


_runner: _ExpertRunner | None = None


def _start(factory: str, suite: str, image_size: int | None) -> None:
    global _runner
    _runner = _ExpertRunner(load_factory(factory)(suite, image_size))


def _run(episode: ExpertEpisode, restarted: bool) -> Episode:
    assert _runner is not None
    return _runner.run(*episode, restarted)
