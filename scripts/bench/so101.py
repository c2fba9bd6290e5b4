"""`python -m scripts.bench.so101 [--json FILE]`: the SO-101 suite, and the scene of the arm's package.

Both are measured in turns on one core. The peer is that package's `pick_scene.xml` as it is: its meshes, its textures
and shadows, its collision shapes, drawn by `mujoco.Renderer`. The expert's episodes are counted on every initial state.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mujoco

from scripts.bench.timing import Measurement, describe_machine, per_second, time_in_turns
from sim.contract import FloatArray, Split
from sim.so101.environment import SO101Environment
from sim.so101.expert import SO101Expert
from sim.so101.model import package_file
from sim.so101.tasks import NUM_INIT_STATES, TASKS

SIZE = 64
STEPS = 60
PACKAGE_SUBSTEPS = 17
"""Physics steps of the peer in a thirtieth of a second: its time step is 2 ms."""
SPLITS: tuple[Split, Split] = ("train", "eval")


def recorded_controls() -> list[FloatArray]:
    """The actions of one lifting episode, repeated to `STEPS`."""
    environment, expert = SO101Environment(1), SO101Expert(0)
    environment.reset_to("train", 0)
    expert.reset(environment)
    actions: list[FloatArray] = []
    while len(actions) < STEPS:
        actions.append(expert.act(environment))
        environment.advance(actions[-1])
    return actions


def speeds(seconds: float) -> list[Measurement]:
    """Control steps and pairs of pictures a second, here and in the package's own scene."""
    environment, actions = SO101Environment(1), recorded_controls()
    model = mujoco.MjModel.from_xml_path(str(package_file("pick_scene.xml")))
    data, renderer = mujoco.MjData(model), mujoco.Renderer(model, SIZE, SIZE)
    mujoco.mj_forward(model, data)

    def step() -> None:
        environment.reset_to("train", 0)
        for action in actions:
            environment.advance(action)

    def step_package() -> None:
        for _ in actions:
            mujoco.mj_step(model, data, PACKAGE_SUBSTEPS)

    def draw() -> None:
        for _ in range(STEPS):
            environment.render_observation()

    def draw_package() -> None:
        for _ in range(2):  # as many pictures as an observation has here
            renderer.update_scene(data, camera="front")
            renderer.render()

    work: dict[str, tuple[Callable[[], None], int, str]] = {
        "control steps, none drawn": (step, STEPS, "step"),
        "control steps of the package's scene, arm at rest": (step_package, STEPS, "step"),
        f"both pictures of {SIZE} px": (draw, STEPS, "pair"),
        f"two pictures of {SIZE} px of the package's scene": (draw_package, 1, "pair"),
    }
    durations = time_in_turns([block for block, _, _ in work.values()], seconds)
    return [
        per_second(name, count, unit, spent)
        for (name, (_, count, unit)), spent in zip(work.items(), durations, strict=True)
    ]


def expert_episodes() -> list[dict[str, Any]]:
    """Successes, mean and longest length, and cost, of the scripted expert by task and split."""
    rows = []
    for task_id, task in enumerate(TASKS):
        environment = SO101Environment(task_id)
        for split in SPLITS:
            lengths, cost = [], 0.0
            for index in range(NUM_INIT_STATES):
                expert = SO101Expert(index)
                environment.reset_to(split, index)
                expert.reset(environment)
                outcome, length = environment.advance(expert.act(environment)), 1
                while not outcome.done:
                    cost += outcome.cost
                    outcome, length = environment.advance(expert.act(environment)), length + 1
                cost += outcome.cost
                lengths += [length] if outcome.success else []
            rows.append(
                {
                    "task": task.name,
                    "split": split,
                    "episodes": NUM_INIT_STATES,
                    "successes": len(lengths),
                    "mean_length": round(sum(lengths) / max(len(lengths), 1), 1),
                    "longest": max(lengths, default=0),
                    "cost": cost,
                }
            )
    return rows


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.so101", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each speed")
    options = parser.parse_args()
    results = {
        "machine": describe_machine(),
        "speeds": [asdict(row) for row in speeds(options.seconds)],
        "expert": expert_episodes(),
    }
    text = json.dumps(results, indent=1) + "\n"
    if options.json:
        options.json.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
