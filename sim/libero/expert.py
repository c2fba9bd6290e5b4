"""Which scripted expert does which of LIBERO's tasks."""

from __future__ import annotations

from sim.contract import EnvironmentRequestError, Expert
from sim.libero.goal_experts import DrawerExpert, DrawerThenPlaceExpert, KnobExpert, PlateExpert, SurfaceExpert
from sim.libero.long_experts import (
    LIVING_ROOM_CARRY,
    BookExpert,
    FarPotExpert,
    GoalByGoalExpert,
    MugExpert,
    NearPotExpert,
    PotExpert,
    ShutDrawerExpert,
    TableBasketExpert,
)
from sim.libero.object_experts import BasketExpert
from sim.libero.spatial_experts import BowlExpert, BowlInDrawerExpert
from sim.libero.tasks import LiberoTask
from sim.libero.waypoints import CARRY_HEIGHT, WaypointExpert

GOAL_TASKS: dict[str, type[WaypointExpert] | type[DrawerThenPlaceExpert]] = {
    "open_the_top_drawer_and_put": DrawerThenPlaceExpert,
    "open_": DrawerExpert,
    "turn_on_": KnobExpert,
    "push_": PlateExpert,
    "put_": SurfaceExpert,
}
"""Beginning of the name of a libero_goal task -> its expert; the first that fits."""

LONG_TASKS: dict[int, tuple[dict[int, type[WaypointExpert]], float]] = {
    0: ({0: TableBasketExpert, 1: TableBasketExpert}, LIVING_ROOM_CARRY),
    1: ({0: TableBasketExpert, 1: TableBasketExpert}, LIVING_ROOM_CARRY),
    2: ({0: KnobExpert, 1: PotExpert}, CARRY_HEIGHT),
    3: ({1: SurfaceExpert, 0: ShutDrawerExpert}, CARRY_HEIGHT),
    4: ({0: MugExpert, 1: MugExpert}, LIVING_ROOM_CARRY),
    5: ({0: BookExpert}, 1.09),
    6: ({0: MugExpert, 1: SurfaceExpert}, LIVING_ROOM_CARRY),
    7: ({0: TableBasketExpert, 1: TableBasketExpert}, LIVING_ROOM_CARRY),
    8: ({0: NearPotExpert, 1: FarPotExpert}, 1.06),
}
"""Task of libero_10 -> who fulfils which condition, and the height to carry at."""


def make_expert(suite: str, task: LiberoTask, seed: int) -> Expert:
    """The scripted expert of a suite's task. Raises `EnvironmentRequestError` for a task that has none yet.

    Whether one of libero_90 has one shows at its reset, when its goal is known.
    """
    if suite == "libero_spatial":
        return BowlInDrawerExpert(task, seed) if "in_the_top_drawer" in task.name else BowlExpert(task, seed)
    if suite == "libero_object":
        return BasketExpert(task, seed)
    if suite == "libero_90":
        return GoalByGoalExpert(task, seed)
    if suite == "libero_goal":
        for start, kind in GOAL_TASKS.items():
            if task.name.startswith(start):
                return kind(task, seed)
    elif task.index in LONG_TASKS:
        return GoalByGoalExpert(task, seed, *LONG_TASKS[task.index])
    raise EnvironmentRequestError(
        f"there is no scripted expert for {task.suite} task {task.index} ({task.name}); of libero_10 tasks "
        f"{', '.join(map(str, LONG_TASKS))} have one. Use a trained policy or recorded demonstrations."
    )
