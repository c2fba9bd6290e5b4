"""Limits as they stand in a robot's file."""

import pytest

from tests.vla.safety.robots import one_joint
from vla.safety.limits import Box, MotionLimits


def test_limits_survive_a_file() -> None:
    limits = one_joint(workspace=Box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), keep_out=(Box((0.2,) * 3, (0.3,) * 3),))
    assert MotionLimits.from_dict(limits.to_dict()) == limits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": (1.0, 2.0)}, "low has 2 entries, not 1"),
        ({"jerk": (float("nan"),)}, "jerk holds a number that is not finite"),
        ({"low": (10.0,)}, "every low must be below its high"),
        ({"velocity": (0.0,)}, "every velocity must be above 0"),
    ],
)
def test_limits_that_cannot_be(changes: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_joint(**changes)


def test_a_file_that_lacks_something() -> None:
    values = one_joint().to_dict()
    del values["jerk"]
    with pytest.raises(ValueError, match="jerk"):
        MotionLimits.from_dict(values)
