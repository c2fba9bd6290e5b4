"""The code behind `vla robot faults`."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla.errors import CheckFailedError, ReflexError
from vla.run.run_folder import dated_folder
from vla.run.settings import Checks

if TYPE_CHECKING:  # what runs a row is imported when one runs, so that --help needs none of it
    from rich.console import Console

    from real_robot.arms.so101 import SO101Arm
    from real_robot.emulators.so101 import SO101Emulator
    from real_robot.faults.rows import Row
    from real_robot.faults.scene import Scene
    from real_robot.faults.verdict import Seen

TRACE_SECONDS = 60.0
"""How much of an arm's motion is kept for one row; a deployment under watch takes a fraction of it."""


@dataclass(frozen=True)
class FaultsConfig:
    """Which faults strike."""

    rows: list[str] | None = None
    """Rows of the matrix by name, such as [brown_out,server_killed]; null for all."""
    task: int = 0
    """Task of the suite so101 whose scene the emulated arm stands in."""
    watchdog_timeout: float = 0.25
    """As of vla deploy; longer on a machine so busy that the control loop is late by more."""
    keep: bool = False
    """Keep the run folders of rows that hold, too; those of rows that fail are always kept."""
    output: str = field(default_factory=partial(dated_folder, "faults"))
    """Folder to write: faults.json, and the run folder of each deployment."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.at_least(0, "task")
        check.within(0.1, 5, "watchdog_timeout")
        if self.rows is not None and (not self.rows or len(set(self.rows)) != len(self.rows)):
            raise ReflexError(f"rows is {self.rows}; name at least one row, and each row once, or leave rows out")


def run_matrix(config: FaultsConfig) -> None:
    """Let each fault strike a deployment on the emulated SO-101, write faults.json and show the table.

    Raises `ReflexError` for an unknown row or a folder that is there already, and `CheckFailedError` when everything is
    written and a row does not hold.
    """
    from rich.console import Console

    from real_robot.emulators.so101 import SO101Emulator
    from real_robot.faults.rows import ROWS
    from vla.run.files import write_json

    known = {row.name: row for row in ROWS}
    if unknown := set(config.rows or ()) - set(known):
        raise ReflexError(f"rows: there is no {min(unknown)!r}; they are {', '.join(known)}")
    output = Path(config.output)
    if output.exists() and any(output.iterdir()):
        raise ReflexError(f"{output} holds something already; choose another output=")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("[bold]The arm is an emulated one; nothing real moves.[/]")
    results: list[dict[str, Any]] = []
    with SO101Emulator(task_id=config.task, trace_seconds=TRACE_SECONDS) as emulator:
        for row in [known[name] for name in config.rows or known]:
            results.append(strike(row, emulator, output / "rows" / row.name, config))
            verdict = "; ".join(results[-1]["failures"]) or "holds"
            console.print(f"{row.name}: {row.what}: {verdict}")
            write_json(output / "faults.json", {"machine": machine(), "rows": results})
    show(console, results)
    if failed := [result["row"] for result in results if result["failures"]]:
        raise CheckFailedError(f"{len(failed)} of {len(results)} rows do not hold: {', '.join(failed)}; see {output}")


def strike(row: Row, emulator: SO101Emulator, folder: Path, config: FaultsConfig) -> dict[str, Any]:
    """Deploy, let the fault strike, watch, and judge; the folder of a row that holds goes unless it is to be kept."""
    import shutil

    from real_robot.arms.so101 import SO101Arm, SO101Settings
    from real_robot.faults.scene import Scene
    from real_robot.faults.verdict import judge, never_struck

    arm = SO101Arm(SO101Settings(emulator.port, str(emulator.calibration_file)))
    emulator.set_faults()
    emulator.reset(init_state=0)
    before, load = emulator.status()["bus"]["late_ticks"], os.getloadavg()[0]
    try:
        with Scene(emulator, folder, row.policy, row.small_disk, config.watchdog_timeout) as scene:
            result = judge(row, _watch(row, scene, arm), arm)
    except ReflexError as error:
        result = never_struck(row, error)
    if not result["failures"] and not config.keep:
        shutil.rmtree(folder)
    return result | {"load": load, "late_physics_steps": emulator.status()["bus"]["late_ticks"] - before}


def _watch(row: Row, scene: Scene, arm: SO101Arm) -> Seen:
    """Strike, and see what comes of it."""
    from real_robot.faults.truth import Truth
    from real_robot.faults.verdict import Seen

    scene.swing()
    scene.struck = time.monotonic()
    row.strike(scene)
    time.sleep(max(0.0, scene.struck + row.watched - time.monotonic()))
    if row.end == "stops":
        scene.wait_until_ended()
    # The end comes after the trace: how the deployment comes to rest when it is told to end is no part of the row.
    trace, ended = scene.emulator.trace(), scene.ended
    scene.emulator.set_faults()
    scene.finish()
    truth = Truth.of_trace(trace, arm.calibration)
    truth.save(scene.folder / "truth.npz")
    return Seen(truth, scene.struck, ended, scene.run, scene.said, scene.watchdog())


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}


def show(console: Console, results: list[dict[str, Any]]) -> None:
    """The matrix as a table."""
    from rich.table import Table

    table = Table("row", "expected", "end", "at rest after", "allowed", "velocity", "jerk", "unrecorded", "verdict")
    for result in results:
        rests = result["rests_after"]
        table.add_row(
            result["row"],
            result["expected"].replace("_", " "),
            result["end"].replace("_", " "),
            "" if rests is None else f"{rests:.2f} s",
            "" if rests is None else f"{result['detection_bound'] + result['stop_bound']:.2f} s",
            _share(result["peak_velocity_share"]),
            _share(result["peak_jerk_share"]),
            str(result["unrecorded"]),
            "[bold red]fails[/]" if result["failures"] else "[green]holds[/]",
        )
    console.print(table)
    console.print(
        "by the physics, the greatest of any powered joint: velocity as a share of a servo's own greatest, jerk as a "
        "share of its limit"
    )


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"
