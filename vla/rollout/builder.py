"""The one place where what was played becomes an `Episode`, whoever acted and wherever it ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import FloatArray, Observation, StepOutcome
from sim.embodiments import Embodiment
from sim.pool.worker import ChunkResult
from vla.data.episode import Episode
from vla.rollout.requests import RolloutRequest

if TYPE_CHECKING:  # torch takes seconds to import, and an expert's episode needs none
    from vla.policies.protocol import PolicyOutput


class EpisodeBuilder:
    """An episode in the making: tell it what was seen, decided and done, then `build`."""

    def __init__(
        self,
        suite: str,
        embodiment: Embodiment,
        wanted: RolloutRequest,
        policy_id: str,
        worker_restarted: bool = False,
    ) -> None:
        """Of the environment, the episode asked for and who acts.

        `worker_restarted`: a worker died playing it before.
        """
        self.observations: list[Observation] = []
        self._suite, self._embodiment, self._wanted, self._policy_id = suite, embodiment, wanted, policy_id
        self._worker_restarted = worker_restarted
        self._observation_steps: list[int] = []
        self._planned: FloatArray = np.zeros((0, embodiment.action.size), np.float32)
        self._actions: list[FloatArray] = []
        self._outcomes: list[StepOutcome] = []
        self._decisions: list[NDArray[Any]] = []
        self._log_probs: list[FloatArray] = []
        self._features: list[FloatArray] = []
        self._inputs: list[Any] = []

    @property
    def steps(self) -> int:
        """Control steps so far."""
        return len(self._outcomes)

    def observe(self, observation: Observation, step: int | None = None) -> None:
        """Keep what was seen after `step` control steps, None being now. A moment that is known is kept once."""
        step = self.steps if step is None else step
        if step not in self._observation_steps[-1:]:
            self._observation_steps.append(step)
            self.observations.append(observation)

    def decide(self, output: PolicyOutput, row: int, keep_inputs: bool) -> None:
        """Keep one of a policy's decisions, with what its network took in if `keep_inputs`; its actions come next."""
        self._planned = output.actions[row]
        self._decisions.append(output.decision[row])
        self._log_probs.append(output.log_probs[row])
        if output.features is not None:
            self._features.append(output.features[row])
        if keep_inputs and output.inputs is not None:
            self._inputs.append(output.inputs[row : row + 1])

    def step(self, action: FloatArray, outcome: StepOutcome) -> None:
        """Keep one control step: the action [A] and what came of it."""
        self._actions.append(action)
        self._outcomes.append(outcome)

    def chunk(self, result: ChunkResult) -> None:
        """Keep what a pool made of the decision: its frames, and of the actions those that were executed."""
        for step, observation in zip(result.extra_steps, result.extra_observations, strict=True):
            self.observe(observation, self.steps + step)
        self._actions.extend(self._planned[: result.steps])
        self._outcomes.extend(result.outcomes)
        self._worker_restarted |= result.worker_restarted
        self.observe(result.observation)

    def build(self, instruction: str) -> Episode:
        """The immutable record, in arrays of its own; without frames and states where nothing was observed."""
        request = self._wanted.request
        return Episode(
            suite=self._suite,
            embodiment=self._embodiment,
            task_id=request.task_id,
            instruction=instruction,
            split=request.split,
            init_state_id=request.init_state_id,
            seed=self._wanted.seed,
            policy_id=self._policy_id,
            success=bool(self._outcomes) and self._outcomes[-1].success,
            actions=_stack(self._actions, np.float32, (self._embodiment.action.size,)),
            observation_steps=np.array(self._observation_steps, dtype=np.int64),
            images={
                camera: _stack([seen["images"][camera] for seen in self.observations], np.uint8, (0, 0, 3))
                for camera in self._embodiment.camera_names
            },
            states=_stack([seen["state"] for seen in self.observations], np.float32, (self._embodiment.state.size,)),
            rewards=np.array([outcome.success for outcome in self._outcomes], dtype=np.float32),
            costs=np.array([outcome.cost for outcome in self._outcomes], dtype=np.float32),
            progress=np.array([outcome.progress for outcome in self._outcomes], dtype=np.float32),
            decisions=np.stack(self._decisions) if self._decisions else None,
            log_probs=np.stack(self._log_probs).astype(np.float32, copy=False) if self._log_probs else None,
            features=np.stack(self._features) if self._features else None,
            inputs=type(self._inputs[0]).concatenate(self._inputs) if self._inputs else None,
            worker_restarted=self._worker_restarted,
        )


def _stack(rows: Sequence[NDArray[Any]], dtype: type, shape_of_none: tuple[int, ...]) -> NDArray[Any]:
    """Rows along a new leading axis; with no rows, an empty array whose rows would have the shape given."""
    return np.stack(rows).astype(dtype, copy=False) if rows else np.zeros((0, *shape_of_none), dtype)
