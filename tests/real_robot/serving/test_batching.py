"""Requests are decided on together, whole batches by themselves, and every wait has an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from real_robot.serving.batching import Batcher, BusyError, ClosingError, Decided, LateError
from sim.contract import ObservationBatch
from vla.errors import ReflexError

FAR = 60.0


def numbered(*numbers: float) -> ObservationBatch:
    """Observations whose states are numbers."""
    return ObservationBatch(
        images={"image": np.zeros((len(numbers), 2, 2, 3), np.uint8)},
        state=np.array([[number] for number in numbers], np.float32),
        instruction=["go"] * len(numbers),
    )


class Policy:
    """Answers with the states, notes the batches, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, observations: ObservationBatch) -> NDArray[np.float32]:
        self.entered.set()
        assert self.gate.wait(FAR)
        states = observations["state"][:, 0].tolist()
        self.batches.append(states)
        if any(state < 0 for state in states):
            raise ReflexError("a state is below 0")
        return observations["state"][:, None, :]


@contextmanager
def batching(
    decide: Callable[[ObservationBatch], NDArray[np.float32]],
    max_batch: int = 8,
    window_s: float = 0.0,
    queue_limit: int = 100,
    clients: int = 0,
) -> Iterator[Batcher]:
    batcher = Batcher(decide, max_batch=max_batch, window_s=window_s, queue_limit=queue_limit, clients=lambda: clients)
    try:
        yield batcher
    finally:
        assert batcher.close(FAR)


def submit(batcher: Batcher, *numbers: float, whole: bool = False, within_s: float = FAR) -> Future[Decided]:
    return batcher.submit(numbered(*numbers), whole, time.monotonic() + within_s)


def held_up(policy: Policy, batcher: Batcher) -> Future[Decided]:
    """A first request that the policy is busy with until its gate opens."""
    policy.gate.clear()
    first = submit(batcher, 0)
    assert policy.entered.wait(FAR)
    return first


def test_those_that_wait_are_decided_on_together_and_each_gets_its_own() -> None:
    policy = Policy()
    with batching(policy) as batcher:
        first = held_up(policy, batcher)
        futures = [submit(batcher, number) for number in range(1, 11)]
        policy.gate.set()
        for number, future in enumerate([first, *futures]):
            assert future.result(FAR).actions.tolist() == [[[number]]]
    assert policy.batches == [[0], [*range(1, 9)], [9, 10]]
    assert futures[0].result().batch == 8


def test_a_clients_batch_is_joined_with_nothing_and_keeps_its_place() -> None:
    policy = Policy()
    with batching(policy) as batcher:
        held_up(policy, batcher)
        submit(batcher, 1)
        whole = submit(batcher, 2, 3, 4, whole=True)
        last = submit(batcher, 5)
        policy.gate.set()
        assert whole.result(FAR).actions[:, 0, 0].tolist() == [2, 3, 4]
        last.result(FAR)
    assert policy.batches == [[0], [1], [2, 3, 4], [5]]


def test_the_first_waits_for_others_within_the_window() -> None:
    policy = Policy()
    with batching(policy, max_batch=3, window_s=FAR) as batcher:
        futures = [submit(batcher, number) for number in range(3)]
        assert futures[0].result(FAR / 2).batch == 3  # as soon as the batch is full


def test_nobody_is_waited_for_once_every_client_has_asked() -> None:
    policy = Policy()
    with batching(policy, window_s=FAR, clients=1) as batcher:
        started = time.monotonic()
        submit(batcher, 1).result(FAR)
        assert time.monotonic() - started < FAR / 2


def test_the_window_ends() -> None:
    policy = Policy()
    with batching(policy, window_s=0.05, clients=2) as batcher:
        assert submit(batcher, 1).result(FAR).queue_s >= 0.05


def test_one_request_too_many_is_refused_at_once() -> None:
    policy = Policy()
    with batching(policy, queue_limit=2) as batcher:
        held_up(policy, batcher)
        futures = [submit(batcher, 1), submit(batcher, 2)]
        assert batcher.depth == 2
        with pytest.raises(BusyError, match="2 requests wait"):
            submit(batcher, 3)
        policy.gate.set()
        assert [future.result(FAR).actions.item() for future in futures] == [1, 2]
        assert submit(batcher, 4).result(FAR).actions.item() == 4


def test_whoever_left_does_not_fill_the_queue() -> None:
    policy = Policy()
    with batching(policy, queue_limit=2) as batcher:
        held_up(policy, batcher)
        gone, stays = submit(batcher, 1), submit(batcher, 2)
        assert gone.cancel()
        assert batcher.depth == 1
        last = submit(batcher, 3)
        with pytest.raises(BusyError, match="2 requests wait"):
            submit(batcher, 4)
        policy.gate.set()
        assert (stays.result(FAR).actions.item(), last.result(FAR).actions.item()) == (2, 3)
    assert policy.batches == [[0], [2], [3]] or policy.batches == [[0], [2, 3]]


def test_what_waited_too_long_is_not_decided_on() -> None:
    policy = Policy()
    with batching(policy) as batcher:
        held_up(policy, batcher)
        late, good = submit(batcher, 1, within_s=0.0), submit(batcher, 2)
        gone = submit(batcher, 3)
        assert gone.cancel()  # whoever asked has left
        time.sleep(0.01)
        policy.gate.set()
        with pytest.raises(LateError, match="past its deadline"):
            late.result(FAR)
        assert good.result(FAR).actions.item() == 2
    assert policy.batches == [[0], [2]]


def test_one_that_fails_spoils_nobody_elses() -> None:
    policy = Policy()
    with batching(policy) as batcher:
        held_up(policy, batcher)
        good, bad, other = submit(batcher, 1), submit(batcher, -1), submit(batcher, 2)
        policy.gate.set()
        assert (good.result(FAR).actions.item(), other.result(FAR).actions.item()) == (1, 2)
        with pytest.raises(ReflexError, match="below 0"):
            bad.result(FAR)
        assert submit(batcher, 3).result(FAR).actions.item() == 3


def test_a_policy_that_forgets_somebody_is_an_error() -> None:
    with batching(lambda observations: np.zeros((1, 1, 1), np.float32)) as batcher:
        failed = submit(batcher, 1, 2, whole=True)
        with pytest.raises(ReflexError, match="decided for 1 observations of 2"):
            failed.result(FAR)


def test_closing_answers_what_waits_and_takes_no_more() -> None:
    policy = Policy()
    with batching(policy) as batcher:
        first = held_up(policy, batcher)
        waiting = submit(batcher, 1)
        assert not batcher.close(0.01)  # it is deciding
        with pytest.raises(ClosingError, match="shutting down"):
            submit(batcher, 2)
        policy.gate.set()
        assert batcher.close(FAR)
        assert not batcher.is_alive
        assert (first.result(0).actions.item(), waiting.result(0).actions.item()) == (0, 1)
