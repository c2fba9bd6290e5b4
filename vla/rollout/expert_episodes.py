"""Evaluating a suite's scripted experts: `vla eval policy=expert`. Nothing is rendered, so it is quick.

Worker processes import this module, so it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sim.pool.worker import load_factory
from vla.data.episode import Episode
from vla.rollout.actors import EXPERT
from vla.rollout.play import Player
from vla.rollout.requests import RolloutRequest
from vla.run.worker_processes import run_jobs


def run_experts(
    suite: str,
    image_size: int | None,
    requests: Sequence[RolloutRequest],
    num_workers: int,
    on_episode: Callable[[Episode], None],
    factory: str = "sim.suites:get_suite",
) -> None:
    """Play episodes in worker processes and hand out their records, without frames and states, as they finish.

    An episode whose worker died is played again and marked. Raises `EnvironmentRequestError` for a task without an
    expert, `ReflexError` when workers keep dying.
    """
    waiting = dict.fromkeys(requests)

    def finished(done: RolloutRequest, episode: Episode) -> None:
        del waiting[done]
        on_episode(episode)

    workers = min(num_workers, len(requests))
    run_jobs(_ExpertPlayer, (factory, suite, image_size), workers, lambda: list(waiting), finished)


class _ExpertPlayer(Player):
    """Plays experts' episodes in a worker process."""

    def __init__(self, factory: str, suite: str, image_size: int | None) -> None:
        super().__init__(load_factory(factory)(suite, image_size))

    def run(self, job: RolloutRequest, restarted: bool) -> Episode:
        expert = self.suite.make_expert(job.request.task_id, job.seed)
        return self.play(job, expert, EXPERT, worker_restarted=restarted)
