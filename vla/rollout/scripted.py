"""Episodes of a suite's scripted experts, and of an arm that moves at random, over worker processes.

Worker processes import this module, so it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sim.pool.worker import load_factory
from vla.data.episode import Episode
from vla.rollout.actors import EXPERT, Actor, Paced, Random, action_noise
from vla.rollout.play import Player
from vla.rollout.requests import RolloutRequest
from vla.run.worker_processes import run_jobs


class ScriptedPlayer(Player):
    """Plays one episode after another as an expert or at random; a `JobWorker` of `RolloutRequest`s."""

    def __init__(
        self,
        factory: str,
        suite: str,
        image_size: int | None,
        policy: str = EXPERT,
        pace: float | None = None,
        noise: float = 0.0,
        frame_stride: int | None = None,
        after_success: int = 0,
    ) -> None:
        """`policy` is "expert" or "random"; `pace`, `noise`, `after_success`: see `Paced`, `action_noise`, `Player`."""
        super().__init__(load_factory(factory)(suite, image_size), after_success)
        self._policy, self._pace, self._noise, self._frame_stride = policy, pace, noise, frame_stride

    def run(self, job: RolloutRequest, restarted: bool) -> Episode:
        """Play it; `restarted` marks the episode. Raises `EnvironmentRequestError` when the suite cannot serve it."""
        generator = np.random.default_rng(job.seed)
        actor: Actor = Random(generator)
        if self._policy == EXPERT:
            actor = self.suite.make_expert(job.request.task_id, job.seed)
        if self._pace is not None:
            actor = Paced(actor, self._pace)
        noise = action_noise(generator, self._noise, self.suite.embodiment)
        return self.play(
            job, actor, self._policy, worker_restarted=restarted, frame_stride=self._frame_stride, disturb=noise
        )


def run_experts(
    suite: str,
    image_size: int | None,
    requests: Sequence[RolloutRequest],
    num_workers: int,
    on_episode: Callable[[Episode], None],
    factory: str = "sim.suites:get_suite",
) -> None:
    """Play experts' episodes in worker processes and hand out their records as they finish; see `run_jobs`.

    Nothing is rendered, so it is quick, and the records hold neither frames nor states.
    """

    def finished(_: RolloutRequest, episode: Episode) -> None:
        on_episode(episode)

    run_jobs(ScriptedPlayer, (factory, suite, image_size), num_workers, requests, finished)
