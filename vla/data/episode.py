"""The episode record: one immutable rollout, from any source, in any suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Embodiment


@dataclass(frozen=True)
class Episode:
    """One rollout of T control steps that made D decisions (chunks).

    Observations (frames and states) are kept at the moments in `observation_steps`: every step for a demonstration,
    every decision (plus the final moment) for a rollout that rendered only what it needed. Arrays are never shared
    between episodes.
    """

    suite: str
    embodiment: Embodiment
    """What acted: names, shapes and units of everything below."""
    task_id: int
    instruction: str
    """The first one, where it changes within the episode."""
    split: str
    """"train" or "eval": which set of initial states `init_state_id` indexes."""
    init_state_id: int
    seed: int
    """Seed of the action sampling of this rollout."""
    policy_id: str
    success: bool
    actions: NDArray[np.float32]
    """[T, A] executed actions."""
    observation_steps: NDArray[np.int64]
    """[N] control-step index of each kept observation, increasing; 0 is before the first action, T after the last."""
    images: Mapping[str, NDArray[np.uint8]]
    """By camera: [N, H, W, 3] frames. A dataset may decode them when they are asked for."""
    states: NDArray[np.float32]
    """[N, S] proprioception."""
    rewards: NDArray[np.float32]
    """[T] environment reward (1 at success, else 0)."""
    costs: NDArray[np.float32]
    """[T] safety costs."""
    progress: NDArray[np.float32]
    """[T] simulator-true progress, for audits only."""
    decisions: NDArray[Any] | None = None
    """[D, ...] what the policy needs to score each decision again (`PolicyOutput.decision`); None from others."""
    log_probs: NDArray[np.float32] | None = None
    """[D, U] log-probabilities of the decisions' units under the policy and the sampling that made them."""
    features: NDArray[np.float32] | None = None
    """[D, F] the hidden state that each decision was made from; None when the source gives none."""
    inputs: Any = None
    """What the policy's network took in at each of the D decisions, in memory only (`PolicyOutput.inputs`)."""
    interventions: NDArray[np.bool_] | None = None
    """[T] whether a person made the action, and not the policy; None where nobody recorded it."""
    instructions: tuple[str, ...] | None = None
    """[N] the instruction of each kept observation, where it changes within the episode; None where it does not."""
    worker_restarted: bool = False
    """The episode was re-run from its initial state because its worker died."""

    @property
    def length(self) -> int:
        """Control steps executed."""
        return len(self.actions)

    def instructions_at(self, rows: NDArray[np.int64]) -> list[str]:
        """The instructions of kept observations, by their positions [n] in `observation_steps`."""
        if self.instructions is None:
            return [self.instruction] * len(rows)
        return [self.instructions[row] for row in rows]

    def record(self) -> dict[str, Any]:
        """The JSON-ready line of `episodes.jsonl`."""
        return {
            "suite": self.suite,
            "task_id": self.task_id,
            "split": self.split,
            "init_state_id": self.init_state_id,
            "seed": self.seed,
            "policy_id": self.policy_id,
            "success": bool(self.success),
            "steps": self.length,
            "cost": float(self.costs.sum()),
            "final_progress": float(self.progress[-1]) if self.length else 0.0,
            "worker_restarted": self.worker_restarted,
        }
