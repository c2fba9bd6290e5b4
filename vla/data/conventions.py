"""Whether recorded actions can mean what an embodiment says that actions mean.

A gripper recorded as 0 and 1, joint angles in degrees or metres instead of shares of a largest step train without an
error, and the policy then does something else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Action, Embodiment
from vla.errors import ReflexError

TOLERANCE = 0.01
"""Share of the range between both limits by which a command may be beyond them."""
NEAR = 0.25
"""Share of the range between open and closed within which a gripper's command counts as one of them."""
SHOWN = 3
"""Numbers of an action that a message describes."""
TINY = 0.05
"""Commands that are shares of the largest one and never exceed this were recorded in other units."""


def check_actions(actions: NDArray[np.floating[Any]], embodiment: Embodiment, source: str = "the dataset") -> None:
    """Refuse actions [T, A] that contradict an embodiment: its limits, its gripper, its units.

    What nobody knows (no limits, no gripper, an unknown kind) is not checked. `source` names the data.
    Raises one `ReflexError` that names each number of the action at odds, the share of frames, and what to set.
    """
    if actions.ndim != 2 or actions.shape[1] != embodiment.action.size:
        raise ReflexError(
            f"{source} has actions of shape {actions.shape}; {embodiment.name} needs [T, {embodiment.action.size}]"
        )
    if not len(actions):
        return
    problems = list(_beyond_limits(actions, embodiment.action))
    # A gripper in other units altogether needs no second remark.
    problems = problems or [*_gripper(actions, embodiment.action), *_tiny(actions, embodiment.action)]
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"and so are {len(problems) - SHOWN} more numbers"]
    if problems:
        raise ReflexError(
            f"{source} does not mean by its actions what {embodiment.name} "
            f"({embodiment.action.kind.replace('_', ' ')}) means: {'; '.join(problems)}. Set embodiment=dataset to "
            "train a policy for what was recorded, in the dataset's own units, or convert the dataset"
        )


def beyond_limits(actions: NDArray[np.floating[Any]], meaning: Action) -> NDArray[np.bool_]:
    """Which commands [T, A] are outside their limits by more than `TOLERANCE`; none where no limits are known."""
    if not meaning.low:
        return np.zeros(actions.shape, dtype=np.bool_)
    low, high = np.array(meaning.low), np.array(meaning.high)
    slack = TOLERANCE * (high - low)
    outside: NDArray[np.bool_] = (actions < low - slack) | (actions > high + slack)
    return outside


def _beyond_limits(actions: NDArray[np.floating[Any]], meaning: Action) -> Iterable[str]:
    outside = beyond_limits(actions, meaning)
    for index, (low, high) in enumerate(zip(meaning.low, meaning.high, strict=True)):
        values, share = actions[:, index], float(outside[:, index].mean())
        if share:
            yield (
                f"{meaning.names[index]} (number {index}) is outside [{low:g}, {high:g}] in {_percent(share)} of "
                f"{len(values)} frames, from {values.min():.3g} to {values.max():.3g}"
            )


def _gripper(actions: NDArray[np.floating[Any]], meaning: Action) -> Iterable[str]:
    """A gripper that is often neither open nor closed and never one of them, such as 0 and 1 for -1 and +1."""
    if meaning.gripper is None or meaning.gripper_open == meaning.gripper_closed:
        return
    values, near = actions[:, meaning.gripper], NEAR * abs(meaning.gripper_closed - meaning.gripper_open)
    is_open = np.abs(values - meaning.gripper_open) < near
    is_closed = np.abs(values - meaning.gripper_closed) < near
    neither = float(np.mean(~(is_open | is_closed)))
    if neither and not (is_open.any() and is_closed.any()):
        said = f"{meaning.gripper_open:g} open, {meaning.gripper_closed:g} closed"
        found = f"from {values.min():.3g} to {values.max():.3g}"
        found = found if values.min() < values.max() else f"always {values.min():.3g}"
        yield (
            f"{meaning.names[meaning.gripper]} (number {meaning.gripper}), the gripper ({said}), is neither in "
            f"{_percent(neither)} of {len(values)} frames: {found}"
        )


def _tiny(actions: NDArray[np.floating[Any]], meaning: Action) -> Iterable[str]:
    """Movements in metres and radians where shares of the largest movement are meant."""
    moving = [index for index in range(meaning.size) if index != meaning.gripper]
    if not meaning.is_normalised or not moving:
        return
    largest = float(np.abs(actions[:, moving]).max())
    if 0 < largest <= TINY:
        yield (
            f"no movement in {len(actions)} frames is above {_percent(largest)} of the largest possible, as if they "
            "were in metres and radians"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "less than 0.1 %"
