"""A policy that keeps an arm in fast motion: what a fault strikes should not be an arm that stands."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sim.contract import Observation, ObservationBatch
from sim.embodiments import Embodiment
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.policies.observations import greedy_chunk
from vla.policies.protocol import PolicyOutput, PolicySpec
from vla.policies.sampling import GREEDY, Sampling
from vla.policies.storage import read_config, read_surroundings, write_policy_folder

FAMILY = "real_robot.faults.swing:SwingPolicy"
AMPLITUDE = np.array([45.0, 0.0, 6.0, 0.0, 50.0, 30.0])
"""Degrees, and per cent of the gripper, to each side of the centre."""
RATE = 0.35
"""Swings a second: the base reaches 99 degrees a second, the wrist 110."""
HORIZON, EXECUTED = 16, 8
"""Actions in a chunk, and how many are executed before the next decision."""
LAG = 0.07
"""Seconds by which the arm is behind what it is told."""
DECAY = 0.85
"""What is left after each action of the way from where the arm is to where it should be."""


class SwingPolicy:
    """Satisfies `vla.policies.protocol.Policy`: each chunk begins where the arm says it is and joins the swing.

    So a wrong reading leads to wrong actions, as with any policy that looks at the arm's state.
    """

    def __init__(self, embodiment: Embodiment, centre: Sequence[float], poison: str | None = None) -> None:
        """`centre` [6]: around which it swings; `poison`: while this file exists, one number of every chunk is NaN."""
        self.embodiment, self.policy_id = embodiment, "swing"
        self.feature_map: FeatureMap = SAME_NAMES
        self._centre, self._poison = np.asarray(centre, np.float64), poison
        self._period = 1.0 / embodiment.control_frequency

    @property
    def spec(self) -> PolicySpec:
        """See `Policy.spec`."""
        return PolicySpec(self.embodiment, True, HORIZON, EXECUTED, ())

    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        """See `Policy.act`; there is nothing to sample."""
        now, steps = time.monotonic(), np.arange(HORIZON, dtype=np.float64)
        apart = np.asarray(observations["state"], np.float64) - self._place(np.array([now - LAG]))
        chunks = self._place(now + self._period * steps) + apart[:, None] * (DECAY**steps)[:, None]
        actions = self.embodiment.action.clip(chunks.astype(np.float32))
        if self._poison is not None and Path(self._poison).exists():
            actions[:, HORIZON // 2, 0] = np.nan
        empty = np.zeros((len(actions), 0), np.float32)
        return PolicyOutput(actions, empty, empty)

    def _place(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where the arm should be [T, 6] at times [T] (monotonic seconds)."""
        place: NDArray[np.float64] = self._centre + AMPLITUDE * np.sin(2.0 * np.pi * RATE * times)[:, None]
        return place

    def select_action(self, observation: Observation | Mapping[str, Any]) -> NDArray[np.float32]:
        """See `Policy.select_action`."""
        return greedy_chunk(self, observation)

    def save_pretrained(self, folder: Path) -> None:
        """See `Policy.save_pretrained`."""
        config = {"family": FAMILY, "centre": self._centre.tolist(), "poison": self._poison}
        write_policy_folder(folder, config, self.embodiment, self.feature_map, {})

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> Self:
        """Read a folder that `save_pretrained` wrote. Raises `ReflexError` naming the file at fault."""
        config, (embodiment, feature_map) = read_config(Path(folder)), read_surroundings(Path(folder))
        assert embodiment is not None  # it was written
        policy = cls(embodiment, config["centre"], config["poison"])
        policy.feature_map = feature_map
        return policy
