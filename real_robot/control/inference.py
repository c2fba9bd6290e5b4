"""Decisions of the policy, made beside the control loop: one at a time, in a thread of its own.

A thread is enough where the network computes outside Python's lock, as torch does, or waits for a server. One that is
slow, hangs or raises delays no control step: the loop looks whether there is an answer, and never waits for one.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from real_robot.control.schedulers import Chunk, UnderWay
from sim.contract import Observation, stack_observations
from vla.errors import ReflexError
from vla.policies.flow.policy import FlowPolicy
from vla.policies.flow.prefix import Prefix
from vla.policies.protocol import Policy

_log = logging.getLogger(__name__)

Decide = Callable[[Observation, UnderWay | None], NDArray[np.float64]]
"""(observation, what is under way) -> a chunk of actions [H, A] in the robot's units."""


@dataclass(frozen=True)
class Request:
    """A question to the policy."""

    number: int
    """Counts the requests of a run, from 0; the chunk's number."""
    observation: Observation
    observed: float
    """When the observation was made: monotonic seconds."""
    asked: float
    """When it was handed to the thread."""
    under_way: UnderWay | None = None


@dataclass(frozen=True)
class Answer:
    """What came of a request."""

    request: Request
    chunk: Chunk | None
    """None when the policy raised."""
    error: str | None
    began: float
    """When the thread took the request."""
    ended: float
    """When the policy had decided."""


class InferenceWorker:
    """Answers requests in a thread. Use as a context manager."""

    def __init__(self, decide: Decide) -> None:
        self._decide = decide
        self._requests: queue.Queue[Request | None] = queue.Queue()
        self._answers: queue.Queue[Answer] = queue.Queue()
        self._pending: Request | None = None
        # A daemon: a policy that never returns cannot be ended, and must not keep the process alive.
        self._thread = threading.Thread(target=self._serve, name="inference", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> Request | None:
        """The request that has no answer yet."""
        return self._pending

    def ask(self, request: Request) -> None:
        """Hand over a request. Raises `RuntimeError` while another is pending."""
        if self._pending is not None:
            raise RuntimeError(f"request {self._pending.number} has no answer yet")
        self._pending = request
        self._requests.put(request)

    def poll(self) -> Answer | None:
        """The answer, if there is one; never waits."""
        try:
            answer = self._answers.get_nowait()
        except queue.Empty:
            return None
        self._pending = None
        return answer

    def wait(self, seconds: float) -> Answer | None:
        """The answer to what is pending, if it comes in time. For the moments in which the arm need not move."""
        if self._pending is None:
            return None
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            return None
        self._pending = None
        return answer

    def close(self, seconds: float = 1.0) -> None:
        """End the thread, or leave it behind when the policy does not return in time."""
        self._requests.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            _log.warning("the policy has not returned; its thread ends with the process")

    def __enter__(self) -> InferenceWorker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            began = time.monotonic()
            chunk, error = None, None
            try:
                actions = np.asarray(self._decide(request.observation, request.under_way), dtype=np.float64)
                chunk = Chunk(request.number, request.observed, actions)
            except Exception as raised:  # noqa: BLE001 (it is handed to the loop, which holds and counts it)
                error = f"{type(raised).__name__}: {raised}"
            self._answers.put(Answer(request, chunk, error, began, time.monotonic()))


def decide_with(policy: Policy) -> Decide:
    """The greedy policy as `Decide`; a flow policy continues what is under way by guided denoising."""

    def decide(observation: Observation, under_way: UnderWay | None) -> NDArray[np.float64]:
        batch = stack_observations([observation])
        if under_way is None or not isinstance(policy, FlowPolicy):
            output = policy.act(batch)
        else:
            prefix = Prefix(under_way.actions.astype(np.float32), under_way.delay)
            output = policy.act(batch, prefix=prefix)
        return np.asarray(output.actions[0], dtype=np.float64)

    return decide


def check_continues(policy: Policy) -> None:
    """Raise `ReflexError` for a policy whose chunks cannot be made to continue one under way (strategy=rtc)."""
    if not isinstance(policy, FlowPolicy):
        raise ReflexError(
            f"strategy=rtc needs a flow policy, whose denoising can be guided, and {policy.policy_id} is none; use "
            "strategy=async, or give it a flow head with vla sft decision=flow"
        )
