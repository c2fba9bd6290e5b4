"""A corridor in which it is known what is best: data of it, and how far a policy comes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.contract import ObservationBatch
from sim.embodiments import Action, Embodiment, State
from vla.offline.transitions import Transitions
from vla.policies.protocol import Policy

ROBOT = Embodiment("point", (), State(("place",)), Action(("step",), "velocity", (-1.0,), (1.0,)), control_frequency=10)
GOAL, SPEED, HORIZON = 1.0, 0.2, 12


def corridor(episodes: int = 60, seed: int = 0) -> Transitions:
    """Random walks from 0: the goal is at +1, where an episode ends with reward 1; others are cut after 12 steps."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(episodes):
        place, lean = 0.0, generator.uniform(-0.5, 1.0)
        walked = []
        for step in range(HORIZON):
            action = float(np.clip(lean + generator.normal(0, 0.5), -1, 1))
            following = place + SPEED * action
            arrived = following >= GOAL
            walked.append((place, action, float(arrived), following, arrived, step))
            place = following
            if arrived:
                break
        rows += [(*row, number, walked[-1][4]) for row in walked]
    return from_rows(rows)


def from_rows(rows: Sequence[tuple[float, ...]]) -> Transitions:
    """Of (place, action, reward, next place, whether it is the goal, step, episode, whether that succeeded)."""
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Transitions(
        observations=columns[0].astype(np.float32)[:, None],
        actions=columns[1].astype(np.float32)[:, None],
        rewards=columns[2].astype(np.float32),
        next_observations=columns[3].astype(np.float32)[:, None],
        terminals=columns[4].astype(np.bool_),
        frames=columns[5].astype(np.int64),
        episodes=columns[6].astype(np.int64),
        successes=columns[7].astype(np.bool_),
        embodiment=ROBOT,
        spans=np.ones(len(rows), dtype=np.int64),
    )


def steps_to_goal(policy: Policy) -> int:
    """Control steps from 0 to the goal under the greedy policy; 100 if it does not arrive."""
    place = 0.0
    for step in range(100):
        state = np.array([[place]], dtype=np.float32)
        chunk = policy.act(ObservationBatch(images={}, state=state, instruction=[""])).actions[0]
        for number in range(policy.spec.execute_steps):
            place += SPEED * float(chunk[number, 0])
            if place >= GOAL:
                return step * policy.spec.execute_steps + number + 1
    return 100
