"""What runs inside one worker of the environment pool: a few environments, stepped a chunk at a time.

`SlotRunner` does the work, in a worker process (`sim.pool.serve`) or in that of a pool without workers.
"""

from __future__ import annotations

import gc
import importlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, ManipulationEnvironment, Observation, Split, StepOutcome, Suite
from sim.plugins import user_location
from sim.pool.memory import available_share

DEFAULT_MAX_ENVIRONMENTS = 64
"""Live environments one worker keeps when neither the caller nor the suite says otherwise."""

MEMORY_RESERVE = 0.2
"""Share of the memory that is left free: below it, environments that wait for their task's next episode are closed."""


@dataclass(frozen=True)
class EpisodeRequest:
    """Which episode a slot shall run: a task from one of its stored initial states."""

    task_id: int
    split: Split
    init_state_id: int
    lead: tuple[tuple[float, ...], ...] = ()
    """Actions [A] that come before the episode: it begins where they lead to, with so much less of its time left."""


@dataclass(frozen=True)
class ChunkResult:
    """What one slot did with one chunk of actions."""

    outcomes: list[StepOutcome]
    """Of each control step: all of the chunk, or fewer when success or the horizon ended the episode."""
    observation: Observation
    """Rendered after the last executed step: the next decision's, or the episode's final one."""
    extra_steps: list[int]
    """Step counts within this chunk (1 .. steps - 1) after which an extra frame was rendered."""
    extra_observations: list[Observation]
    worker_restarted: bool = False
    """The episode was replayed from its initial state because its worker died (true from then to its end)."""

    @property
    def steps(self) -> int:
        """Control steps executed."""
        return len(self.outcomes)

    @property
    def done(self) -> bool:
        """Whether the episode is over, by success or at the horizon."""
        return self.outcomes[-1].done


@dataclass(frozen=True)
class ResetCommand:
    """Start an episode and answer with its first observation.

    With `replayed`, the actions float32 [T, A] executed so far, bring a fresh environment to the middle of the episode;
    this is answered only when it fails. `ticket` is then that of the command that waits behind it.
    """

    slot: int
    ticket: int
    request: EpisodeRequest
    replayed: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class StepCommand:
    """Run a chunk, `actions` float32 [H, A], and answer with a `ChunkResult`."""

    slot: int
    ticket: int
    actions: NDArray[np.float32]
    frame_stride: int | None


Command = ResetCommand | StepCommand


@dataclass(frozen=True)
class Failure:
    """An exception, in a form that crosses a process boundary whatever its class."""

    is_request_error: bool
    message: str
    traceback: str


@dataclass(frozen=True)
class Reply:
    """The answer to the command with this slot and ticket."""

    slot: int
    ticket: int
    result: Observation | ChunkResult | Failure


def load_factory(path: str) -> Callable[[str, int | None], Suite]:
    """Import a suite factory from "package.module:function". Raises `EnvironmentRequestError` when there is none."""
    module_name, _, attribute = path.partition(":")
    try:
        factory: Callable[[str, int | None], Suite] = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise EnvironmentRequestError(
            f"cannot import the suite factory {path!r} ({error}); it must read package.module:function"
        ) from error
    return factory


def begin_episode(environment: ManipulationEnvironment, request: EpisodeRequest) -> None:
    """Put an environment of the request's task where the episode begins, without rendering.

    Raises `EnvironmentRequestError` for an initial state that does not exist, or a lead that ends the episode.
    """
    environment.reset_to(request.split, request.init_state_id)
    for number, action in enumerate(request.lead, start=1):
        if environment.advance(np.array(action, dtype=np.float32)).done:
            raise EnvironmentRequestError(
                f"the {len(request.lead)} actions that lead into an episode of task {request.task_id}, initial "
                f"state {request.init_state_id}, end it after {number}"
            )


@dataclass
class _Running:
    """The episode a slot is in."""

    environment: ManipulationEnvironment
    task_id: int
    steps: int = 0


class SlotRunner:
    """Environments of some slots in this process.

    An environment belongs to one slot during an episode. When the slot turns to another task, its environment waits
    for the next episode of its own task, in whatever slot of this process; beyond `max_environments`, or when memory is
    short, the one that waited longest is closed. The suite is made once, at the first command, so that environments can
    share what is expensive (models, a GL context).
    """

    def __init__(self, factory: str, suite_name: str, image_size: int | None, max_environments: int | None) -> None:
        self._factory = factory
        self._suite_name = suite_name
        self._image_size = image_size
        self._max_environments = max_environments
        self._suite: Suite | None = None
        self._running: dict[int, _Running] = {}
        self._waiting: list[tuple[int, ManipulationEnvironment]] = []  # (task, environment), longest waiting first

    def handle(self, command: Command) -> Reply | None:
        """Run one command. An exception becomes a `Failure`, and its slot's environment is thrown away."""
        result: Observation | ChunkResult | Failure
        try:
            if isinstance(command, StepCommand):
                result = self._step_chunk(command.slot, command.actions, command.frame_stride)
            else:
                running = self._place(command.slot, command.request.task_id)
                begin_episode(running.environment, command.request)
                if command.replayed is not None:
                    self._replay(running, command.replayed)
                    return None
                result = observe(running.environment)
        except Exception as error:  # noqa: BLE001 - it is raised again where the reply is read
            result = self._fail(command, error)
        return Reply(command.slot, command.ticket, result)

    def close(self) -> None:
        """Close every environment."""
        for environment in [running.environment for running in self._running.values()] + [e for _, e in self._waiting]:
            environment.close()
        self._running.clear()
        self._waiting.clear()

    def _step_chunk(self, slot: int, actions: NDArray[np.float32], frame_stride: int | None) -> ChunkResult:
        running = self._running.get(slot)
        if running is None:
            raise RuntimeError("its episode was lost in an earlier failure; reset it")
        environment = running.environment
        outcomes: list[StepOutcome] = []
        extra_steps: list[int] = []
        extra_observations: list[Observation] = []
        for action in actions:
            outcome = environment.advance(action)
            outcomes.append(outcome)
            running.steps += 1
            last = outcome.done or len(outcomes) == len(actions)
            if last:
                break
            if frame_stride is not None and running.steps % frame_stride == 0:
                extra_steps.append(len(outcomes))
                extra_observations.append(observe(environment))
        return ChunkResult(outcomes, observe(environment), extra_steps, extra_observations)

    def _replay(self, running: _Running, actions: NDArray[np.float32]) -> None:
        for action in actions:
            if running.environment.advance(action).done:
                raise RuntimeError(
                    f"the episode ended after {running.steps + 1} of {len(actions)} replayed steps: the simulation "
                    "does not repeat itself, so a lost worker's episodes cannot be recovered"
                )
            running.steps += 1

    def _place(self, slot: int, task_id: int) -> _Running:
        """Give the slot an environment of a task: its own, one that waits, or a new one."""
        previous = self._running.pop(slot, None)
        if previous is not None:
            self._waiting.append((previous.task_id, previous.environment))
        environment = self._take_waiting(task_id)
        if environment is None:
            environment = self._make(task_id)
        self._running[slot] = _Running(environment, task_id)
        return self._running[slot]

    def _take_waiting(self, task_id: int) -> ManipulationEnvironment | None:
        for index in reversed(range(len(self._waiting))):
            if self._waiting[index][0] == task_id:
                return self._waiting.pop(index)[1]
        return None

    def _make(self, task_id: int) -> ManipulationEnvironment:
        if self._suite is None:
            self._suite = load_factory(self._factory)(self._suite_name, self._image_size)
        limit = self._max_environments
        if limit is None:
            limit = int(getattr(self._suite, "max_live_environments", DEFAULT_MAX_ENVIRONMENTS))
        while self._waiting and len(self._running) + len(self._waiting) >= limit:
            self._waiting.pop(0)[1].close()
        while self._waiting and available_share() < MEMORY_RESERVE:
            self._waiting.pop(0)[1].close()
            gc.collect()  # what a simulator built refers to itself in circles
        return self._suite.make(task_id)

    def _fail(self, command: Command, error: Exception) -> Failure:
        running = self._running.pop(command.slot, None)
        task_id = running.task_id if running is not None else None
        if isinstance(command, ResetCommand):
            task_id = command.request.task_id
        where = f"slot {command.slot}, task {task_id}"
        if running is not None:
            try:
                running.environment.close()
            except Exception as close_error:  # noqa: BLE001 - reported with the first error, which matters more
                error.add_note(f"closing the environment then failed too: {close_error!r}")
        is_request_error = isinstance(error, EnvironmentRequestError)
        place = user_location(error)
        message = str(error) if is_request_error else f"{type(error).__name__}: {error}"
        message += f", in {place}" if place and not is_request_error else ""
        return Failure(is_request_error, f"{where}: {message}", "".join(traceback.format_exception(error)))


def observe(environment: ManipulationEnvironment) -> Observation:
    """Render, into arrays that no later render can overwrite."""
    observation = environment.render_observation()
    return Observation(
        images={camera: image.copy() for camera, image in observation["images"].items()},
        state=observation["state"].copy(),
        instruction=observation["instruction"],
    )
