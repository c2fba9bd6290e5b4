"""Episodes that are broken: numbers that are not finite, pictures that froze, and the like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Action
from vla.data.conventions import beyond_limits
from vla.data.episode import Episode

Flags = NDArray[np.bool_]

STILL = 4
"""Levels (of 255) by which two pictures may differ in a pixel and count as the same: what a video codec leaves."""

MOVING = 0.02
"""Share of a number's deviation in the data set from which its change in one control step counts as a movement."""

FROZEN_STEPS = 10
"""Control steps in a row with a robot that moves and a picture that does not, from which on the picture is frozen."""

SHORT_SHARE = 0.1
"""An episode with less than this share of the median length of its task's successes is too short to show anything."""


def problems(episode: Episode, usual_length: float) -> Iterator[str]:
    """What is wrong with an episode's numbers and its task, one phrase each; `usual_length` is its task's."""
    for name, array in (("state", episode.states), ("action", episode.actions), ("reward", episode.rewards)):
        bad: Flags = ~np.all(np.isfinite(array.reshape(len(array), -1)), axis=1)
        if bad.any():
            yield f"{name} is not finite in {int(bad.sum())} of {len(bad)} steps, first in step {int(bad.argmax())}"
    if too_short(episode.length, usual_length):
        yield f"too short: {episode.length} steps, where a success of its task has {usual_length:.0f}"
    yield from out_of_range(episode.actions, episode.embodiment.action)
    if not any(character.isalpha() for character in episode.instruction):
        yield f"no task sentence: {episode.instruction!r}"


def too_short(length: int, usual_length: float) -> bool:
    """Whether so few control steps show nothing; a single one never does."""
    return length < max(2.0, SHORT_SHARE * usual_length)


def out_of_range(actions: NDArray[np.floating], commands: Action) -> Iterator[str]:
    """One phrase that names the commands [T, A] outside their limits, where limits are known."""
    outside = beyond_limits(actions, commands)
    if outside.any():
        columns: Flags = np.any(outside, axis=0)
        names = ", ".join(name for name, bad in zip(commands.names, columns, strict=True) if bad)
        yield f"action out of range in {int(outside.any(axis=1).sum())} of {len(actions)} steps ({names})"


def frozen_pictures(
    images: Mapping[str, NDArray[np.uint8]], states: NDArray[np.floating], spread: NDArray[np.floating]
) -> Iterator[str]:
    """One phrase for each camera whose picture stands still while the robot moves.

    `images` are [T, H, W, 3] by camera, `states` [T, S], `spread` [S] the deviation of each number in the data set. A
    robot without a state is taken to move always, so that a scene at rest counts too.
    """
    moves: Flags = np.ones(len(states) - 1, dtype=np.bool_)
    if states.shape[1]:
        least = MOVING * np.where(spread > 0, spread, np.inf)
        moves = np.any(np.abs(np.diff(states, axis=0)) > least, axis=1)
    for camera, frames in images.items():
        change = np.abs(np.diff(frames.astype(np.int16), axis=0)).max(axis=(1, 2, 3))
        start, length = longest_run(moves & (change <= STILL))
        if length >= FROZEN_STEPS:
            yield f"camera {camera} shows the same picture for {length} steps from step {start} while the robot moves"


def longest_run(flags: Flags) -> tuple[int, int]:
    """Start and length of the longest run of True in [N]; (0, 0) without any."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0
    best = int(np.argmax(ends - starts))
    return int(starts[best]), int(ends[best] - starts[best])
