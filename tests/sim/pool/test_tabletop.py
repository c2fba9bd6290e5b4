"""The pool on the real simulator: the same bits whatever the number of workers, and after a worker's death."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from sim.pool import ChunkResult, EnvironmentPool, EpisodeRequest

NUM_SLOTS = 4


def play(num_workers: int, kill_before: int | None = None) -> list[ChunkResult]:
    """Two rounds of episodes over four tasks, random chunks; slots change tasks between the rounds."""
    generator = np.random.default_rng(0)
    results: list[ChunkResult] = []
    slots = range(NUM_SLOTS)
    with EnvironmentPool("tabletop", NUM_SLOTS, num_workers) as pool:
        for round_number in range(2):
            pool.reset(slots, [EpisodeRequest((slot + round_number) % 4, "train", slot) for slot in slots])
            for number in range(3):
                if num_workers and (round_number, number) == (1, kill_before):
                    os.kill(pool.worker_pids[0], signal.SIGKILL)
                actions = generator.uniform(-1, 1, size=(NUM_SLOTS, 6, 7)).astype(np.float32)
                results += pool.step_chunk(slots, actions, frame_stride=4)
    return results


@pytest.fixture(scope="module")
def reference() -> list[ChunkResult]:
    return play(0)


@pytest.mark.parametrize(("num_workers", "kill_before"), [(1, None), (2, None), (3, 2)])
def test_bits_do_not_depend_on_workers_or_their_deaths(
    reference: list[ChunkResult], num_workers: int, kill_before: int | None
) -> None:
    results = play(num_workers, kill_before)
    assert any(result.worker_restarted for result in results) == (kill_before is not None)
    for one, other in zip(reference, results, strict=True):
        assert (one.steps, one.extra_steps, one.done) == (other.steps, other.extra_steps, other.done)
        assert one.outcomes == other.outcomes
        moments = zip(
            [one.observation, *one.extra_observations], [other.observation, *other.extra_observations], strict=True
        )
        for left, right in moments:
            np.testing.assert_array_equal(left["state"], right["state"])
            np.testing.assert_array_equal(left["images"]["image"], right["images"]["image"])
            np.testing.assert_array_equal(left["images"]["wrist_image"], right["images"]["wrist_image"])
