"""Physics substeps under a robosuite arm's control, compiled: MuJoCo's C functions with no interpreter between them.

Positions, contacts and velocities are brought up to date once a substep, where robosuite does it three times.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import mujoco
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sim.contract import EnvironmentRequestError
from sim.core.robosuite_control import ArmArrays, RobosuiteArm, look, write_controls, write_controls_quickly

SteppingMode = Literal["exact", "fast"]
"""How physics is stepped.

"exact": states equal to robosuite 1.4's to the bit. robosuite runs a forward pass, its controller another before it
looks, and `mj_step` a third. Each solves for the contact forces from the previous solution, and the solver ends within
its tolerance, not at the optimum: how often it ran shows in the last bits. So it runs three times here as well; what
would come out the same runs once.

"fast": the same equations with the contact forces solved for once, and the control law's matrices inverted by Cholesky
instead of singular values. States drift from robosuite's.
"""


class SubstepRunner:
    """Steps one simulation under one arm's control."""

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, arm: RobosuiteArm, mode: SteppingMode = "exact"
    ) -> None:
        """Raises `EnvironmentRequestError` for another mode, or a model that asks for another integrator."""
        if mode not in get_args(SteppingMode):
            raise EnvironmentRequestError(
                f"unknown stepping {mode!r}; it is one of {', '.join(get_args(SteppingMode))}"
            )
        if model.opt.integrator != mujoco.mjtIntegrator.mjINT_EULER:
            name = mujoco.mjtIntegrator(model.opt.integrator).name
            raise EnvironmentRequestError(f"the model asks for the integrator {name}; only Euler's is stepped here")
        self._arm, self._exact = arm, mode == "exact"
        jacobians = arm.arrays.jacobians
        self._addresses = (
            model._address,
            data._address,
            jacobians[0].ctypes.data,
            jacobians[1].ctypes.data,
            arm.arrays.full_mass.ctypes.data,
            data.qM.ctypes.data,
        )
        self._prepared = False

    def prepare(self) -> None:
        """Bring the present state's positions, contacts and velocities up to date, for a goal to be set from them."""
        _prepare(_FUNCTIONS, *self._addresses[:2], self._exact, not self._arm.holds_state)
        self._prepared = True

    def run(self, substeps: int, gripper: float) -> None:
        """Control and integrate; `gripper` is -1 to open and 1 to close. The first substep may have been prepared."""
        arm = self._arm
        looks = not arm.holds_state
        state = (self._exact, substeps, self._prepared, looks, arm.arrays, arm.site, gripper)
        _run(_FUNCTIONS, self._addresses, *state)
        arm.holds_state = False
        self._prepared = False


class _Functions(NamedTuple):
    """Addresses of MuJoCo's C functions. Handed to compiled code as numbers, which lets that be kept on disk."""

    check_positions: int
    check_velocities: int
    check_accelerations: int
    forward_from_stage: int
    positions: int
    velocities: int
    constraint_forces: int
    integrate: int
    site_jacobians: int
    full_mass_matrix: int


_NAMES = {
    "check_positions": "mj_checkPos",
    "check_velocities": "mj_checkVel",
    "check_accelerations": "mj_checkAcc",
    "forward_from_stage": "mj_forwardSkip",
    "positions": "mj_fwdPosition",
    "velocities": "mj_fwdVelocity",
    "constraint_forces": "mj_fwdConstraint",
    "integrate": "mj_Euler",
    "site_jacobians": "mj_jacSite",
    "full_mass_matrix": "mj_fullM",
}


def _load_functions() -> _Functions:
    """Those of the library that the Python package loaded."""
    (path,) = [entry for entry in Path(mujoco.__file__).parent.glob("libmujoco.*") if entry.is_file()]
    library = ctypes.CDLL(str(path))
    return _Functions(
        **{field: ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for field, name in _NAMES.items()}
    )


_FUNCTIONS = _load_functions()
_FROM_THE_START, _FROM_ACCELERATIONS = int(mujoco.mjtStage.mjSTAGE_NONE), int(mujoco.mjtStage.mjSTAGE_VEL)
_NO_SENSORS = 1


def _type_call(_: Any, address: Any, arguments: Any) -> Any:
    """Call the C function at `address`, which returns nothing, with a tuple of pointers and integers."""
    unpack: Any = cgutils.unpack_tuple

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        parts = unpack(builder, values[1])
        function = ir.FunctionType(ir.VoidType(), [part.type for part in parts])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), parts)
        return context.get_dummy_value()

    return types.void(address, arguments), generate


_call: Any = intrinsic(_type_call)


@numba.njit(cache=True)
def _prepare(functions: _Functions, model: int, data: int, exact: bool, controller_looks: bool) -> None:
    """Everything up to the controls.

    `controller_looks` is false where robosuite's controller acts on what it saw before, without a forward pass.
    """
    _call(functions.check_positions, (model, data))
    _call(functions.check_velocities, (model, data))
    if exact:
        _call(functions.forward_from_stage, (model, data, _FROM_THE_START, _NO_SENSORS))
        if controller_looks:
            _call(functions.constraint_forces, (model, data))
    else:
        _call(functions.positions, (model, data))
        _call(functions.velocities, (model, data))


@numba.njit(cache=True)
def _run(
    functions: _Functions,
    addresses: tuple[int, int, int, int, int, int],
    exact: bool,
    substeps: int,
    prepared: bool,
    controller_looks: bool,
    arm: ArmArrays,
    site: int,
    gripper: float,
) -> None:
    model, data, jacobian_position, jacobian_rotation, full_mass, sparse_mass = addresses
    for substep in range(substeps):
        looks = controller_looks or substep > 0
        if substep > 0 or not prepared:
            _prepare(functions, model, data, exact, looks)
        if looks:
            _call(functions.site_jacobians, (model, data, jacobian_position, jacobian_rotation, site))
            _call(functions.full_mass_matrix, (model, full_mass, sparse_mass))
            look(arm)
        if exact:
            write_controls(arm, gripper)
        else:
            write_controls_quickly(arm, gripper)
        _call(functions.forward_from_stage, (model, data, _FROM_ACCELERATIONS, _NO_SENSORS))
        _call(functions.check_accelerations, (model, data))
        _call(functions.integrate, (model, data))
