"""The file of a robot: which arm it is and how it may be moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from real_robot.arms.arm import ArmError
from vla.safety.limits import MotionLimits

FOLDER = Path(__file__).parent
"""Where the files that come with Reflex are."""
_RATES = ("low", "high", "velocity", "acceleration", "jerk")


@dataclass(frozen=True)
class RobotFile:
    """What the file says."""

    path: Path
    arm: str
    """Name or import path of the arm's class, as `real_robot.arms.registry` takes it."""
    limits: MotionLimits
    max_tracking_error: tuple[float, ...] | None
    """By joint, in its unit: how far the arm may be from where it is told to be; None where the file does not say."""

    def limits_within(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> MotionLimits:
        """The limits, their ranges narrowed to a calibrated one [J]. Raises `ArmError` where nothing is left."""
        narrow_low, narrow_high = np.maximum(self.limits.low, low), np.minimum(self.limits.high, high)
        for name, lowest, highest in zip(self.limits.names, narrow_low, narrow_high, strict=True):
            if not lowest < highest:
                raise ArmError(
                    f"{self.path}: the range of {name} and the calibrated one have nothing in common "
                    f"({lowest:.1f} is not below {highest:.1f}); calibrate the arm again or mend the file"
                )
        return replace(self.limits, low=tuple(narrow_low.tolist()), high=tuple(narrow_high.tolist()))


def read_robot_file(name: str | Path) -> RobotFile:
    """The file of a robot that comes with Reflex (`so101`), or of one's own by its path.

    Raises `ArmError` naming the file and what is wrong in it.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
            raise ArmError(f"there is no robot {str(name)!r}; give {known}, or the path of a .yaml file")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        return RobotFile(path, str(found["arm"]), _limits(found), _max_tracking_error(found))
    except OSError as error:
        raise ArmError(f"cannot read the robot file {path} ({error.strerror or error})") from error
    except KeyError as error:
        raise ArmError(f"the robot file {path} lacks {error}") from error
    except (yaml.YAMLError, TypeError, ValueError, AttributeError) as error:
        raise ArmError(
            f"the robot file {path} is not as it should be ({error}); compare {FOLDER / 'so101.yaml'}"
        ) from error


def _max_tracking_error(found: Mapping[str, Any]) -> tuple[float, ...] | None:
    said = [joint.get("tracking") for joint in found["joints"].values()]
    if all(value is None for value in said):
        return None
    if any(value is None or not float(value) > 0.0 for value in said):
        raise ValueError("tracking is a number above 0 for each joint, or for none")
    return tuple(map(float, said))


def _limits(found: Mapping[str, Any]) -> MotionLimits:
    joints: Mapping[str, Mapping[str, Any]] = found["joints"]
    columns: dict[str, Any] = {key: tuple(float(joint[key]) for joint in joints.values()) for key in _RATES}
    return MotionLimits.from_dict(
        {
            "names": tuple(joints),
            "units": tuple(str(joint["unit"]) for joint in joints.values()),
            **columns,
            "workspace": found.get("workspace"),
            "keep_out": found.get("keep_out", []),
        }
    )
