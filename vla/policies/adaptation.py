"""A policy for another robot: the same weights where they mean the same, and fresh ones where they cannot."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from sim.embodiments import Embodiment


def what_differs(own: Embodiment, other: Embodiment) -> tuple[bool, bool]:
    """Whether the state, and whether the action, of another embodiment means something else.

    Where one side does not say what kind of command its numbers are, their names decide.
    """
    kinds = {own.action.kind, other.action.kind} - {"unknown"}
    return own.state.names != other.state.names, own.action.names != other.action.names or len(kinds) > 1


def gripper_as_it_is(embodiment: Embodiment) -> tuple[int, ...]:
    """The gripper's place in an action, where its commands are in [-1, 1] and need no normalisation."""
    action = embodiment.action
    place = action.gripper
    if place is None or not action.low or (action.low[place], action.high[place]) != (-1.0, 1.0):
        return ()
    return (place,)


def take_over(target: nn.Module, source: nn.Module, parts: Mapping[str, bool]) -> tuple[list[str], list[str]]:
    """Copy the weights of `source` into `target`, except for those that have to be learnt anew.

    Args:
        target: a network with random weights.
        source: the same network for another embodiment.
        parts: parts whose shape depends on the embodiment, by the beginning of their weights' names -> whether they
            stay random although all their shapes agree.

    Returns:
        The modules of which weights were taken over, and the parts that are fresh.

    Raises:
        ValueError: a weight depends on the embodiment and is of no part in `parts`.
    """
    theirs, ours = source.state_dict(), target.state_dict()
    fresh = [
        part
        for part, anew in parts.items()
        if any(_is_of(name, part) for name in ours) and (anew or not _same_shapes(ours, theirs, part))
    ]
    kept = [name for name in ours if not any(_is_of(name, part) for part in fresh)]
    if missing := [name for name in kept if name not in theirs]:
        raise ValueError(f"the network for another embodiment has weights that depend on it unsaid: {missing}")
    copied = {name: theirs[name] for name in kept}
    target.load_state_dict(copied, strict=False)  # the fresh ones are missing
    return sorted({name.partition(".")[0] for name in copied}), sorted(fresh)


def _is_of(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _same_shapes(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], part: str) -> bool:
    names = {name for name in (*ours, *theirs) if _is_of(name, part)}
    return all(name in ours and name in theirs and ours[name].shape == theirs[name].shape for name in names)
