"""The environment pool: many environments over worker processes that live as long as the pool.

A slot is one running episode. Slots are assigned to workers statically (slot modulo number of workers) and results do
not depend on how many workers there are. Chunks of actions go to a worker whole; it renders only the frames somebody
asked for. Observations travel pickled over a socket pair, one message per worker and call.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, Observation
from sim.pool.process import WorkerProcess, receive, shut_down
from sim.pool.worker import (
    ChunkResult,
    Command,
    EpisodeRequest,
    Failure,
    Reply,
    ResetCommand,
    SlotRunner,
    StepCommand,
)

__all__ = ["ChunkResult", "EnvironmentPool", "EnvironmentPoolError", "EpisodeRequest"]

MAX_RESTARTS = 3
"""How often one worker may die before the pool gives up."""

_log = logging.getLogger(__name__)


class EnvironmentPoolError(EnvironmentRequestError):
    """An environment failed, or a worker process did and could not be brought back."""


class _RemoteTraceback(Exception):
    """Shows the worker's traceback as the cause of the error the caller sees."""


@dataclass
class _Slot:
    """What the parent knows of one slot; enough to run its episode again in a new worker."""

    request: EpisodeRequest | None = None
    """The running episode; None before the first reset, after the end of an episode and after a failure."""
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    """Executed actions of the running episode, one array [steps, 7] per chunk."""
    ticket: int = 0
    """Number of the newest command; replies to older ones are dropped."""
    pending: Command | None = None
    reply: Reply | None = None
    restarted: bool = False


class EnvironmentPool:
    """Runs episodes in `num_slots` slots over `num_workers` processes; with 0 workers, in this process.

    Use as a context manager. `reset` and `step_chunk` are blocking; `begin_...` and `finish` are their two halves, for
    a caller with something else to do meanwhile. Environments are built at the first reset that needs them.

    Any method raises `EnvironmentRequestError` for a request that cannot be served, naming the slot, and
    `EnvironmentPoolError` (a subclass) when an environment or a worker fails. A worker that dies or stays silent for
    `timeout` seconds is restarted and its episodes are re-run to where they were from their recorded actions. After
    an error the slots of that call must be reset.
    """

    def __init__(
        self,
        suite_name: str,
        num_slots: int,
        num_workers: int,
        image_size: int | None = None,
        *,
        factory: str = "sim.suites:get_suite",
        max_environments: int | None = None,
        timeout: float = 120.0,
    ) -> None:
        """`factory` is the import path of `(suite_name, image_size) -> Suite`. `max_environments` bounds the live
        environments of each worker (those its slots are running stay in any case); None takes the suite's attribute
        `max_live_environments` if it has one, else 64."""
        if num_slots < 1 or num_workers < 0 or (max_environments is not None and max_environments < 1):
            raise EnvironmentRequestError(
                f"a pool needs num_slots >= 1, num_workers >= 0 and max_environments >= 1, "
                f"not {num_slots}, {num_workers} and {max_environments}"
            )
        self.suite_name = suite_name
        self.num_slots = num_slots
        self.num_workers = min(num_workers, num_slots)
        self._slots = [_Slot() for _ in range(num_slots)]
        arguments = (factory, suite_name, image_size, max_environments)
        self._runner = SlotRunner(*arguments) if self.num_workers == 0 else None
        self._workers = [WorkerProcess(index, SlotRunner, arguments, timeout) for index in range(self.num_workers)]
        # Runs at the first of close(), garbage collection and interpreter exit.
        self._finalizer = weakref.finalize(self, _shut_down, self._workers, self._runner)

    def __enter__(self) -> EnvironmentPool:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def worker_pids(self) -> list[int]:
        """Process numbers of the workers, by worker index."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End the workers: ask, then SIGTERM, then SIGKILL. Safe to call twice, and after a worker's death."""
        self._finalizer()

    def reset(self, slots: Sequence[int], requests: Sequence[EpisodeRequest]) -> list[Observation]:
        """Start an episode in each slot; whatever ran there is dropped. Returns the first observations."""
        self.begin_reset(slots, requests)
        return self.finish(slots)

    def step_chunk(
        self, slots: Sequence[int], actions: NDArray[np.float32], frame_stride: int | None = None
    ) -> list[ChunkResult]:
        """Run a chunk of actions [n, H, A] in each of n slots, ending early at success or at the horizon.

        The observation after the last executed step is always rendered. `frame_stride` asks for extra frames inside
        the chunk, after every step whose number within the episode is a multiple of it.
        """
        self.begin_step_chunk(slots, actions, frame_stride)
        return self.finish(slots)

    def begin_reset(self, slots: Sequence[int], requests: Sequence[EpisodeRequest]) -> None:
        """Send resets without waiting."""
        self._check_slots(slots)
        if len(requests) != len(slots):
            raise EnvironmentRequestError(f"{len(slots)} slots but {len(requests)} episode requests")
        for slot, request in zip(slots, requests, strict=True):
            state = self._slots[slot]
            state.request, state.actions, state.restarted = request, [], False
        self._submit(
            [
                ResetCommand(slot, self._slots[slot].ticket + 1, request)
                for slot, request in zip(slots, requests, strict=True)
            ]
        )

    def begin_step_chunk(
        self, slots: Sequence[int], actions: NDArray[np.float32], frame_stride: int | None = None
    ) -> None:
        """Send chunks without waiting. Every action is checked before the first is sent."""
        self._check_slots(slots)
        chunks = _check_actions(slots, actions)
        if frame_stride is not None and frame_stride < 1:
            raise EnvironmentRequestError(f"frame_stride must be at least 1, not {frame_stride}")
        for slot in slots:
            state = self._slots[slot]
            if state.request is None or state.pending is not None or state.reply is not None:
                raise EnvironmentRequestError(f"slot {slot} has no episode that waits for actions; reset it first")
        self._submit(
            [
                StepCommand(slot, self._slots[slot].ticket + 1, chunk, frame_stride)
                for slot, chunk in zip(slots, chunks, strict=True)
            ]
        )

    def finish(self, slots: Sequence[int]) -> list[Any]:
        """Wait for what these slots were asked, in their order.

        Returns the first `Observation` of a slot that was reset, the `ChunkResult` of one that ran a chunk.
        """
        self._check_slots(slots)
        self._receive(slots)
        replies = [state.reply for state in (self._slots[slot] for slot in slots)]
        results: list[Any] = []
        for slot, reply in zip(slots, replies, strict=True):
            if reply is None:
                raise EnvironmentRequestError(f"nothing was asked of slot {slot}, so there is nothing to wait for")
            if isinstance(reply.result, Failure):
                for other in slots:
                    self._slots[other] = _Slot(ticket=self._slots[other].ticket)
                kind = EnvironmentRequestError if reply.result.is_request_error else EnvironmentPoolError
                raise kind(reply.result.message) from _RemoteTraceback("\n" + reply.result.traceback)
            results.append(reply.result)
        for slot in slots:
            self._slots[slot].reply = None
        return results

    def _check_slots(self, slots: Sequence[int]) -> None:
        if not self._finalizer.alive:
            raise EnvironmentPoolError("the environment pool is closed")
        unknown = [slot for slot in slots if not 0 <= slot < self.num_slots]
        if unknown or len(set(slots)) != len(slots):
            raise EnvironmentRequestError(
                f"slots must be distinct and within 0 .. {self.num_slots - 1}, not {list(slots)}"
            )

    def _submit(self, commands: Sequence[Command]) -> None:
        """Run the commands here, or send each worker its share in one message."""
        for command in commands:
            state = self._slots[command.slot]
            state.ticket, state.pending, state.reply = command.ticket, command, None
        if self._runner is not None:
            for command in commands:
                reply = self._runner.handle(command)
                assert reply is not None  # only a replay has no reply, and a pool without workers never replays
                self._accept(reply)
        for worker in self._workers:
            worker.send([command for command in commands if command.slot % self.num_workers == worker.index])

    def _accept(self, reply: Reply) -> None:
        """Note a reply and what it says about the slot's episode."""
        state = self._slots[reply.slot]
        command = state.pending
        if command is None or reply.ticket != state.ticket:
            return  # the answer to a command that a later reset made void
        result = reply.result
        if isinstance(command, StepCommand) and isinstance(result, ChunkResult):
            state.actions.append(command.actions[: result.steps])
            if state.restarted:
                reply = replace(reply, result=replace(result, worker_restarted=True))
        if isinstance(result, Failure) or (isinstance(result, ChunkResult) and result.done):
            state.request, state.actions = None, []
        state.pending, state.reply = None, reply

    def _receive(self, slots: Sequence[int]) -> None:
        """Read replies until none of these slots has a pending command, restarting workers where needed."""
        for worker in self._workers:
            worker.expect_answer()
            if worker.connection.closed:
                self._restart(worker, "was interrupted")
        while waiting := {slot % self.num_workers for slot in slots if self._slots[slot].pending is not None}:
            for worker, answers in receive([self._workers[index] for index in sorted(waiting)]):
                if isinstance(answers, str):
                    self._restart(worker, answers)
                    continue
                for reply in answers:
                    self._accept(reply)

    def _restart(self, worker: WorkerProcess, reason: str) -> None:
        """Replace a worker that ended and bring its episodes to where they were."""
        own_slots = range(worker.index, self.num_slots, self.num_workers)
        tasks = {slot: state.request.task_id for slot in own_slots if (state := self._slots[slot]).request is not None}
        what = f"worker {worker.index} (running tasks by slot: {tasks}) {reason}"
        if not worker.ready:
            self.close()
            raise EnvironmentPoolError(f"{what} before it could start; its own message is on standard error")
        if worker.restarts >= MAX_RESTARTS:
            self.close()
            raise EnvironmentPoolError(
                f"{what} and had already been restarted {MAX_RESTARTS} times. If it ran out of memory, use fewer "
                "workers or a smaller max_environments; run with num_workers=0 to see the failure in this process"
            )
        worker.restarts += 1
        _log.warning("%s; restart %d of %d, replaying its episodes", what, worker.restarts, MAX_RESTARTS)
        worker.start()
        worker.send([command for slot in own_slots for command in self._recovery(slot)])

    def _recovery(self, slot: int) -> list[Command]:
        """What brings a slot of a fresh worker to where it was."""
        state = self._slots[slot]
        commands: list[Command] = []
        if state.request is not None and not isinstance(state.pending, ResetCommand):
            state.restarted = True
            done = np.concatenate(state.actions) if state.actions else np.zeros((0, 0), np.float32)
            commands.append(ResetCommand(slot, state.ticket, state.request, replayed=done))
        if state.pending is not None:
            commands.append(state.pending)
        return commands


def _check_actions(slots: Sequence[int], actions: NDArray[np.float32]) -> NDArray[np.float32]:
    """The actions as a float32 copy [n, H, A]. Raises `EnvironmentRequestError` naming the first bad slot."""
    chunks = np.array(actions, dtype=np.float32)
    if chunks.ndim != 3 or len(chunks) != len(slots) or chunks.shape[1] < 1:
        raise EnvironmentRequestError(
            f"actions for slots {list(slots)} must have shape [{len(slots)}, H, A] with H >= 1, "
            f"not {list(chunks.shape)}"
        )
    for slot, chunk in zip(slots, chunks, strict=True):
        bad = np.argwhere(~np.isfinite(chunk))
        if len(bad):
            step, component = bad[0]
            raise EnvironmentRequestError(
                f"slot {slot}: action is {chunk[step, component]} at step {step}, component {component} of its chunk; "
                "actions must be finite"
            )
    return chunks


def _shut_down(workers: list[WorkerProcess], runner: SlotRunner | None) -> None:
    if runner is not None:
        runner.close()
    shut_down(workers)
