"""One running MetaWorld task: equal to MetaWorld's own environment to the bit, and evaluated once a control step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import Image, Split
from sim.metaworld.rendering import TableRenderer
from sim.metaworld.shared_model import SharedModel
from sim.metaworld.tasks import ACTION_REPEAT, NUM_INIT_STATES, TRAINING_STATES

OBSERVATION_SIZE = 39
_STAY = np.array([0.0, 0.0, 0.0, -1.0], np.float32)
_UNSTABLE = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)


@dataclass(frozen=True)
class Evaluation:
    """What MetaWorld says of a state."""

    success: bool
    reward: float
    """Its dense reward, 0 to 10."""
    stable: bool = True
    """False when MuJoCo gave up on the state and started anew."""


class TaskSimulation:
    """MetaWorld's object of a task, on a model that is shared."""

    def __init__(self, shared: SharedModel) -> None:
        self.shared = shared
        self._part = shared.new_part()
        shared.hold(self._part)
        self.task = shared.make_task()
        self._at_first = _plain_attributes(self.task)
        self.observation = np.zeros(OBSERVATION_SIZE)
        """MetaWorld's own [39]: hand, gripper and objects (18) now and a control step ago, and the goal (3)."""

    @property
    def data(self) -> mujoco.MjData:
        """The simulation's state."""
        return self.task.data

    def start(self, split: Split, init_state_id: int) -> Evaluation:
        """Reset to a stored initial state, whatever was before."""
        count = NUM_INIT_STATES if init_state_id < NUM_INIT_STATES else TRAINING_STATES
        vector = self.shared.initial_vectors(split, count)[init_state_id]
        self.shared.hold(self._part)
        self.shared.as_compiled()
        task, data = self.task, self.task.data
        mujoco.mj_resetData(task.model, data)
        vars(task).update(self._at_first)
        task._last_rand_vec = vector.copy()
        task.reset()
        # MetaWorld's resets move things and leave what depends on them for the first step to find out. The solver's
        # starting point is kept, so that the first step comes out as MetaWorld's.
        warm_start = data.qacc_warmstart.copy()
        mujoco.mj_forward(task.model, data)
        data.qacc_warmstart[:] = warm_start
        task._prev_obs = task._get_curr_obs_combined_no_goal()
        return self._evaluate(_STAY)

    def step(self, action: NDArray[np.float32]) -> Evaluation:
        """Hold an action [4] in [-1, 1] for one control step, which is four of MetaWorld's."""
        self.shared.hold(self._part)
        task, data = self.task, self.task.data
        for _ in range(ACTION_REPEAT):
            task.set_xyz_action(action[:3])
            data.ctrl[:] = (action[3], -action[3])
            mujoco.mj_step(task.model, data, nstep=task.frame_skip)
            mujoco.mj_forward(task.model, data)
        return self._evaluate(action)

    def render(self, renderer: TableRenderer) -> Image:
        """A picture of the present state, uint8 [H, W, 3]."""
        self.shared.hold(self._part)
        return renderer.render(self.data)

    def _evaluate(self, action: NDArray[np.float32]) -> Evaluation:
        task, data = self.task, self.task.data
        space = task.sawyer_observation_space
        self.observation = np.clip(task._get_obs(), space.low, space.high)
        if any(data.warning[kind].number for kind in _UNSTABLE):
            return Evaluation(success=False, reward=0.0, stable=False)
        reward, info = task.evaluate_state(self.observation, action)
        return Evaluation(bool(info["success"]), float(reward))


def _plain_attributes(task: Any) -> dict[str, Any]:
    """Numbers, and attributes that are still to be filled: some rewards note at their first call where things were, and
    MetaWorld keeps that for the next episodes."""
    return {name: value for name, value in vars(task).items() if value is None or isinstance(value, int | float)}
