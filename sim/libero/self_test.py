"""What an evaluation checks of LIBERO before it starts: that simulator and files behave as where results were made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.contract import EnvironmentRequestError
from sim.libero.environment import LiberoEnvironment
from sim.libero.tasks import OFFICIAL_IMAGE_SIZE, Variant

Make = Callable[[int], LiberoEnvironment]
"""Builds the environment of a task."""


@dataclass(frozen=True)
class Reference:
    """How one suite looks where it is in order."""

    initial_states: str
    """SHA-256 over the digests of its tasks' files of initial states, in task order."""
    end_effector: tuple[float, float, float]
    """Position (m) in task 0 from its evaluation state 0, after `probe`."""
    state: str
    """First 16 digits of the SHA-256 of the simulation's state then."""


REFERENCES = {
    "libero_spatial": Reference(
        "be28d0f5f515e11bc1c11084b55622e2971c23f0f3fe8aaed28bf7e722c88205",
        (-0.2063349716210039, -0.0020423858225422885, 1.1031727626280379),
        "99be6174c697828e",
    ),
    "libero_object": Reference(
        "1d932dba80fddf2649b9778b3e4cccd681169e1954297077e578afcda92c2ff8",
        (-0.14827396604817988, 0.0032446895390601978, 0.17688856835418876),
        "7e4df09b73f6d443",
    ),
    "libero_goal": Reference(
        "70a38c1a25b21157cc8e857e0f83e51137db991fac6ff3ef88aa3c905793a207",
        (-0.21133401943401556, 0.018476763563697096, 1.10058394568056),
        "753f91929756226a",
    ),
    "libero_10": Reference(
        "aa133df0f5481f06140fd3f5a1ce356571497bbfdc98d265dc390338dcdcd036",
        (-0.038455166261372735, 0.0055727141277886125, 0.6330486048745576),
        "869ff8caf13a321d",
    ),
    "libero_90": Reference(
        "c7ee4c99e2ef5e0ab3d647fd89209fa72e9b13047795dbcf8bce35362f33eaf5",
        (-0.20296832640839577, -0.005503770503931939, 1.1071483674118607),
        "59508a1e55ea56a5",
    ),
}
"""Made with MuJoCo 3.3.0, robosuite 1.4.0 and hf-libero 0.1.4, stepped exactly."""

TOLERANCE = 1e-5
"""Metres. Rounding that differs between processors stays far below it in the probe's 20 steps, which touch nothing."""

BOWL_TASK = 5
"""Of libero_spatial: the bowl stands on a ramekin, and slides off in MuJoCo 3.4.0 and later."""

SEATED_HEIGHT, SEATED_DISTANCE = 0.02, 0.05
"""Metres between the origins of bowl and ramekin, above and beside."""


def self_test(make: Make, protocol: Mapping[str, Any], pictures: bool) -> dict[str, Any]:
    """Build one task (and libero_spatial's task 5), move a little and compare; a few seconds.

    `make` and `protocol` are those of a suite (`sim.libero.suite`). Returns JSON-ready findings. "off_protocol" lists
    in words what keeps results from being compared with published ones. With `pictures`, their digest is among the
    findings: equal digests mean equal renderers and assets.

    Raises `EnvironmentRequestError` when results would not be this suite's: other initial states, an arm that moves
    otherwise, a bowl that does not stay where it belongs.
    """
    base = Variant.of(protocol["suite"]).base
    check_initial_states(protocol, REFERENCES[base])
    environment = make(0)
    try:
        findings = _check_stepping(environment, protocol, REFERENCES[base])
        if pictures:
            observation = environment.render_observation()
            content = b"".join(picture.tobytes() for picture in observation["images"].values())
            findings["pictures_sha256"] = hashlib.sha256(content).hexdigest()
    finally:
        environment.close()
    if base == "libero_spatial":
        check_bowl(make)
    return {**findings, "assets": protocol["assets"], "off_protocol": _off_protocol(protocol)}


def check_initial_states(protocol: Mapping[str, Any], reference: Reference) -> None:
    """Raise `EnvironmentRequestError` unless the evaluation states are the official ones."""
    digests = "".join(task["init_states_sha256"] for task in protocol["tasks"])
    if hashlib.sha256(digests.encode()).hexdigest() != reference.initial_states:
        raise EnvironmentRequestError(
            f"the initial states of {protocol['suite']} are not the official ones; reinstall them: "
            "pip install --force-reinstall --no-deps hf-libero==0.1.4 (or pack the suite's archive again)"
        )


def probe(environment: LiberoEnvironment) -> None:
    """20 control steps of a small movement through free space, from evaluation state 0."""
    environment.reset_to("eval", 0)
    for step in range(20):
        gripper = 1.0 if step > 10 else -1.0
        environment.advance(np.array([0.5 * np.sin(step), 0.5 * np.cos(step), -0.3, 0.1, -0.1, 0.2, gripper]))


def _check_stepping(
    environment: LiberoEnvironment, protocol: Mapping[str, Any], reference: Reference
) -> dict[str, Any]:
    probe(environment)
    position, _ = environment.scene.end_effector_pose()
    error = float(np.abs(position - reference.end_effector).max())
    if not error <= TOLERANCE:
        raise EnvironmentRequestError(
            f"{protocol['suite']} moves otherwise than where its results were measured: after 20 steps the gripper is "
            f"{1000 * error:.3f} mm from where it should be ({1000 * TOLERANCE} mm are allowed). Versions here: "
            f"{protocol['versions']}; reinstall LIBERO (`make libero`) and check LIBERO_ASSETS"
        )
    digest = hashlib.sha256(environment.scene.flattened_state().tobytes()).hexdigest()
    return {"end_effector_error_m": error, "bit_equal": digest.startswith(reference.state)}


def check_bowl(make: Make) -> None:
    """Raise `EnvironmentRequestError` unless the bowl of libero_spatial task 5 stays on its ramekin."""
    environment = make(BOWL_TASK)
    try:
        environment.reset_to("eval", 0)
        scene = environment.scene
        offset = scene.body_position("akita_black_bowl_1") - scene.body_position("glazed_rim_porcelain_ramekin_1")
    finally:
        environment.close()
    if offset[2] < SEATED_HEIGHT or np.linalg.norm(offset[:2]) > SEATED_DISTANCE:
        raise EnvironmentRequestError(
            "the bowl of libero_spatial task 5 slides off its ramekin, which costs published policies up to 86 points "
            "there: contacts differ from MuJoCo 3.3.0's. Run: pip install --no-deps mujoco==3.3.0"
        )


def _off_protocol(protocol: Mapping[str, Any]) -> list[str]:
    reasons = []
    assets, size = protocol["assets"], protocol["image_size"]
    if not assets["official"]:
        reasons.append(
            f"{assets['differing']} files of the assets are missing or not the official ones (first: "
            f"{assets['first']}): what is seen differs from published evaluations"
        )
    if protocol["stepping"] != "exact":
        reasons.append("physics is stepped fast, not exactly")
    if protocol["look"] != "official":
        reasons.append("pictures are drawn plainly")
    if size != OFFICIAL_IMAGE_SIZE:
        reasons.append(f"pictures have {size} pixels a side instead of {OFFICIAL_IMAGE_SIZE}")
    return reasons
