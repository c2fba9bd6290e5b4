"""A policy and where it acts: its cameras by the names they have there, or one refusal that shows both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from sim.embodiments import Embodiment, State
from vla.data.feature_map import FeatureMap, Side, infer
from vla.errors import ReflexError
from vla.policies.protocol import Policy, PolicySpec


def what_it_needs(spec: PolicySpec) -> Embodiment:
    """The policy's embodiment, without a state where it does not look at it."""
    return spec.embodiment if spec.uses_state else dataclasses.replace(spec.embodiment, state=State(()))


def connect(policy: Policy, robot: Embodiment, side: Side = "suite") -> None:
    """Let a policy act on a suite's robot, or a real one. Raises `ReflexError` showing both sides when they do not fit.

    `side` is what messages call the robot's side.
    """
    found = infer(what_it_needs(policy.spec), robot, side=side)
    for part, chosen, ours, theirs in (
        ("state", found.states_for, what_it_needs(policy.spec).state.size, robot.state.size),
        ("action", found.actions_for, policy.spec.embodiment.action.size, robot.action.size),
    ):
        places = chosen(what_it_needs(policy.spec), robot, np.arange(theirs, dtype=np.float32))
        if places.tolist() != list(range(ours)):
            raise ReflexError(
                f"{robot.name} has the numbers of its {part} in another order than the policy "
                f"({policy.spec.embodiment.describe()}), which acts only where the order is its own"
            )
    # Numbers that go by place need no names, so that the cameras' are all that remains to be known.
    cameras = FeatureMap(found.cameras)
    if cameras != policy.feature_map:
        policy.feature_map = cameras


@contextmanager
def connected(policy: Policy, robot: Embodiment) -> Iterator[None]:
    """`connect` meanwhile, and the names as they were afterwards."""
    before = policy.feature_map
    connect(policy, robot)
    try:
        yield
    finally:
        if policy.feature_map != before:
            policy.feature_map = before
