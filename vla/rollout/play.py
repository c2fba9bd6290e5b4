"""Playing an episode with one actor in one environment of this process, step by step."""

from __future__ import annotations

from collections.abc import Callable

from sim.contract import FloatArray, ManipulationEnvironment, Suite
from sim.pool.worker import begin_episode, observe
from vla.data.episode import Episode
from vla.rollout.actors import Actor, staying
from vla.rollout.builder import EpisodeBuilder
from vla.rollout.requests import RolloutRequest


def play_episode(
    environment: ManipulationEnvironment,
    actor: Actor,
    builder: EpisodeBuilder,
    *,
    frame_stride: int | None = None,
    disturb: Callable[[FloatArray], FloatArray] | None = None,
    after_success: int = 0,
) -> Episode:
    """Play from the environment's present state to success, the horizon or the actor's end.

    After a success the robot stays for `after_success` control steps more, as people stop a recording late; the episode
    succeeded if it does so at their end. `frame_stride` keeps an observation before the first step, after every step
    that is a multiple of it and after the last; None renders nothing. `disturb` turns the action [A] that is recorded
    into the one that is executed.
    """
    actor.reset(environment)
    done, succeeded, left = False, False, after_success
    recorded: FloatArray | None = None
    while not done:
        if frame_stride is not None and builder.steps % frame_stride == 0:
            builder.observe(observe(environment))
        action = staying(environment, recorded) if succeeded else actor.act(environment)
        if action is None:
            break
        recorded = environment.embodiment.action.clip(action)
        outcome = environment.advance(recorded if disturb is None else disturb(recorded))
        builder.step(recorded, outcome)
        done = outcome.done
        if succeeded := succeeded or outcome.success:
            done = left == 0 or outcome.truncated
            left -= 1
    if frame_stride is not None:
        builder.observe(observe(environment))
    return builder.build(environment.instruction)


class Player:
    """Plays one episode after another in this process, keeping the environment of the last task alive."""

    def __init__(self, suite: Suite, after_success: int = 0) -> None:
        """`after_success`: see `play_episode`."""
        self.suite, self._after_success = suite, after_success
        self._environment: ManipulationEnvironment | None = None

    def environment_of(self, task_id: int) -> ManipulationEnvironment:
        """An environment of a task, built unless it is the last one's."""
        if self._environment is None or self._environment.task_id != task_id:
            self.close()
            self._environment = self.suite.make(task_id)
        return self._environment

    def play(
        self,
        wanted: RolloutRequest,
        actor: Actor,
        policy_id: str,
        *,
        worker_restarted: bool = False,
        frame_stride: int | None = None,
        disturb: Callable[[FloatArray], FloatArray] | None = None,
    ) -> Episode:
        """Play the episode that is asked for; see `play_episode` and `EpisodeBuilder`.

        Raises `EnvironmentRequestError` for a task or initial state that does not exist.
        """
        environment = self.environment_of(wanted.request.task_id)
        begin_episode(environment, wanted.request)
        builder = EpisodeBuilder(self.suite.name, self.suite.embodiment, wanted, policy_id, worker_restarted)
        return play_episode(
            environment, actor, builder,
            frame_stride=frame_stride, disturb=disturb, after_success=self._after_success,
        )  # fmt: skip

    def close(self) -> None:
        """Free the environment."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None
