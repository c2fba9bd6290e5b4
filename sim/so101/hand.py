"""Where the arm's hand is, for the action filter: the grip point as a function of commands in degrees and per cent."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.so101.embodiment import JOINTS, to_radians
from sim.so101.scene import Scene, compile_scene

Array = NDArray[np.float64]


class SO101Hand:
    """The grip point, the middle of what the jaws hold, in the frame of the arm's base. Follows `HandModel`."""

    def __init__(self) -> None:
        """Raises `EnvironmentRequestError` where the arm's model is not installed (the extra so101)."""
        self._model = compile_scene(Scene("red"))
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site("grip").id
        self._columns = [int(self._model.joint(joint).dofadr[0]) for joint in JOINTS]
        angles = [int(self._model.joint(joint).qposadr[0]) for joint in JOINTS]
        assert angles == list(range(len(JOINTS))), "the arm's joints are the first of the model"
        self._angles, self._place = self._data.qpos[: len(JOINTS)], self._data.site_xpos[self._site]
        # What one degree or one per cent turns a joint by, in radians.
        self._scale = to_radians(np.ones(len(JOINTS))) - to_radians(np.zeros(len(JOINTS)))
        self._jacobian = np.zeros((3, self._model.nv))

    def position(self, positions: Array) -> Array:
        """Metres [3] for commands [6]."""
        self._angles[:] = to_radians(positions)
        mujoco.mj_kinematics(self._model, self._data)
        place: Array = self._place.copy()
        return place

    def jacobian(self, positions: Array) -> Array:
        """Metres per degree (of the gripper: per per cent), [3, 6], at commands [6]."""
        self.position(positions)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, self._jacobian, None, self._site)
        columns: Array = self._jacobian[:, self._columns] * self._scale
        return columns
