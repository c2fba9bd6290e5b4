"""One context of many: pictures do not depend on who else draws."""

import mujoco
import numpy as np

from sim.tabletop.environment import TabletopEnvironment


def test_another_context_left_current_changes_no_picture() -> None:
    environment = TabletopEnvironment(task_id=0)
    environment.reset_to("train", 0)
    before = environment.render_observation()["images"]["image"]
    other = mujoco.GLContext(32, 32)
    other.make_current()
    try:
        np.testing.assert_array_equal(environment.render_observation()["images"]["image"], before)
    finally:
        other.free()
