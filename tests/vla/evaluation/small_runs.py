"""Settings of a small evaluation on the suite of `tests.fakes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla.evaluation.runner import EvaluationConfig

FACTORY = "tests.fakes:get_suite"


def config(output: Path, **changes: Any) -> EvaluationConfig:
    settings: dict[str, Any] = {
        "output": str(output),
        "policy": "0.2",
        "suite": "fake",
        "tasks": [0, 2],
        "episodes_per_task": 3,
        "mode": "sample",
        "num_slots": 3,
        "num_workers": 1,
        "threads": 1,
        "device": "cpu",
    }
    return EvaluationConfig(**(settings | changes))
