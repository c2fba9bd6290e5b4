"""One physics substep of a controlled simulation, in two parts with the controller between them.

`Stepping.prepare` brings everything a controller reads up to date; `Stepping.finish` computes accelerations under the
controls it wrote and integrates them. Position and velocity stages run once a substep, where robosuite runs them three
times.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import mujoco

from sim.contract import EnvironmentRequestError

SteppingMode = Literal["exact", "fast"]
"""How physics is stepped; see `ExactStepping` and `FastStepping`."""


class Stepping(Protocol):
    """The two parts of a substep."""

    def prepare(self, model: mujoco.MjModel, data: mujoco.MjData, controller_looks: bool = True) -> None:
        """Positions, contacts and velocities of the present state.

        `controller_looks` is false where robosuite's controller would act on what it saw before.
        """

    def finish(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Accelerations under the present controls, and the next state."""


class ExactStepping:
    """States equal to robosuite 1.4's to the bit.

    robosuite runs a forward pass, its controller another before it looks, and `mj_step` a third. Each solves for the
    contact forces from the previous solution, and the solver ends within its tolerance, not at the optimum: how often
    it ran shows in the last bits. So it runs three times here as well; what would come out the same runs once.
    """

    def prepare(self, model: mujoco.MjModel, data: mujoco.MjData, controller_looks: bool = True) -> None:
        """See `Stepping`."""
        mujoco.mj_checkPos(model, data)
        mujoco.mj_checkVel(model, data)
        mujoco.mj_forwardSkip(model, data, mujoco.mjtStage.mjSTAGE_NONE, 1)
        if controller_looks:
            mujoco.mj_fwdConstraint(model, data)

    def finish(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """See `Stepping`."""
        mujoco.mj_forwardSkip(model, data, mujoco.mjtStage.mjSTAGE_VEL, 1)
        mujoco.mj_checkAcc(model, data)
        mujoco.mj_Euler(model, data)


class FastStepping:
    """The same equations with the contact forces solved for once: states drift from robosuite's in the last bits."""

    def prepare(self, model: mujoco.MjModel, data: mujoco.MjData, controller_looks: bool = True) -> None:
        """See `Stepping`."""
        mujoco.mj_checkPos(model, data)
        mujoco.mj_checkVel(model, data)
        mujoco.mj_fwdPosition(model, data)
        mujoco.mj_fwdVelocity(model, data)

    def finish(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """See `Stepping`."""
        mujoco.mj_forwardSkip(model, data, mujoco.mjtStage.mjSTAGE_VEL, 1)
        mujoco.mj_checkAcc(model, data)
        mujoco.mj_Euler(model, data)


def make_stepping(mode: SteppingMode, model: mujoco.MjModel) -> Stepping:
    """The stepping of that name. Raises `EnvironmentRequestError` for another name, or a model that needs another."""
    if mode not in get_args(SteppingMode):
        raise EnvironmentRequestError(f"unknown stepping {mode!r}; it is one of {', '.join(get_args(SteppingMode))}")
    if model.opt.integrator != mujoco.mjtIntegrator.mjINT_EULER:
        name = mujoco.mjtIntegrator(model.opt.integrator).name
        raise EnvironmentRequestError(f"the model asks for the integrator {name}; only Euler's is stepped here")
    return ExactStepping() if mode == "exact" else FastStepping()
