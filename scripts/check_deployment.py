"""Whether a policy trained on the simulated SO-101 does its task on the emulated one, through `vla deploy`.

For each held-out initial state the emulated arm's scene is put back, the policy is deployed through the arm's serial
port and cameras, and the emulator says whether the goal was reached. The simulator's own evaluation of the same states
stands beside it.

    python -m scripts.check_deployment policy=runs/so101 output=docs/results/deployment.json [task=1] [states=10] ...
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_robot.deploy import DeployConfig, deploy
from real_robot.emulators.so101 import SO101Emulator
from real_robot.recording.replay import ReplayConfig, replay_episode
from sim.suites import get_suite
from vla.conf.compose import compose_config
from vla.errors import ReflexError
from vla.evaluation.statistics import wilson_interval
from vla.run.files import write_json


@dataclass(frozen=True)
class DeploymentStudy:
    """What is deployed, and how often."""

    policy: str
    """Policy folder or run folder."""
    output: str
    """JSON file to write."""
    task: int = 1
    """Task of the suite so101."""
    states: int = 10
    """Held-out initial states, from 0 on."""
    strategy: str = "async"
    """As of `vla deploy`."""
    seconds: float = 8.0
    """Longest episode."""
    keep: str | None = None
    """Folder for the run folders of the deployments; null for a temporary one."""


def deploy_once(study: DeploymentStudy, emulator: SO101Emulator, state: int, folder: Path) -> dict[str, Any]:
    """One episode from an initial state; what came of it."""
    emulator.reset(init_state=state, split="eval")
    cameras = {name: f"{url}@64x64" for name, url in emulator.camera_urls.items()}
    summary = deploy(
        DeployConfig(
            policy=study.policy,
            robot="so101",
            port=str(emulator.port),
            calibration=str(emulator.calibration_file),
            cameras=cameras,
            task=get_suite("so101").instruction(study.task),
            strategy=study.strategy,  # type: ignore[arg-type] # checked there
            max_seconds=study.seconds,
            threads=1,
            output=str(folder),
        )
    )
    status = emulator.status()
    replayed = replay_episode(ReplayConfig(dataset=str(folder / "dataset"), episode=0))
    return {
        "init_state": state,
        "succeeded": bool(status["has_succeeded"]),
        "control_steps": summary["control_steps"],
        "missed_steps": summary["missed_steps"],
        "decisions": summary["decisions"],
        "replay": replayed,
        "peaks": {key: value for key, value in status.items() if key.startswith("peak")},
        "latency": json.loads((folder / "latency.json").read_text(encoding="utf-8"))["stages"],
    }


def main(study: DeploymentStudy) -> None:
    """Deploy from every state and write the result."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(study.keep or temporary)
        with SO101Emulator(task_id=study.task, split="eval", init_state=0) as emulator:
            for state in range(study.states):
                rows.append(deploy_once(study, emulator, state, root / f"state_{state}"))
                print(f"state {state}: {'success' if rows[-1]['succeeded'] else 'failure'}", flush=True)
    successes = sum(row["succeeded"] for row in rows)
    low, high = wilson_interval(successes, len(rows))
    write_json(
        Path(study.output),
        {
            "study": vars(study),
            "success_rate": successes / len(rows),
            "wilson_low": low,
            "wilson_high": high,
            "episodes": rows,
        },
    )


if __name__ == "__main__":
    try:
        main(compose_config("check_deployment", DeploymentStudy, sys.argv[1:]).build())
    except ReflexError as error:
        sys.exit(f"check_deployment: {error}")
