"""What an evaluation found: records, success rates with intervals, per task and overall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla.errors import ReflexError
from vla.evaluation.protocol import check_same
from vla.evaluation.statistics import PairedDifference, paired_bootstrap, wilson_interval
from vla.run.jsonl import read_lines

__all__ = [
    "EvaluationResult",
    "SuccessRate",
    "TaskResult",
    "compare",
    "compare_tasks",
    "episode_key",
    "evaluated_episodes",
    "evaluations",
    "tabulate",
]


@dataclass(frozen=True, kw_only=True)
class SuccessRate:
    """How many of some episodes succeeded."""

    successes: int
    episodes: int

    @property
    def success_rate(self) -> float:
        """Share of episodes that succeeded; 0 when there were none."""
        return self.successes / self.episodes if self.episodes else 0.0

    @property
    def wilson_low(self) -> float:
        """Lower end of the 95 % Wilson interval."""
        return wilson_interval(self.successes, self.episodes)[0]

    @property
    def wilson_high(self) -> float:
        """Upper end of the 95 % Wilson interval."""
        return wilson_interval(self.successes, self.episodes)[1]


@dataclass(frozen=True, kw_only=True)
class TaskResult(SuccessRate):
    """Success of one task."""

    task_id: int
    instruction: str


@dataclass(frozen=True)
class EvaluationResult(SuccessRate):
    """Success over all episodes of an evaluation."""

    records: list[dict[str, Any]]
    """One per episode, ordered by task and initial state."""
    protocol_hash: str
    """Of the protocol they were measured under."""
    successes: int = field(init=False)
    episodes: int = field(init=False)
    per_task: list[TaskResult] = field(init=False)
    """Ordered by task."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "successes", sum(bool(record["success"]) for record in self.records))
        object.__setattr__(self, "episodes", len(self.records))
        object.__setattr__(self, "per_task", tabulate(self.records))

    def summary(self) -> dict[str, float | int]:
        """``success_rate``, ``episodes``, ``wilson_low`` and ``wilson_high``."""
        return {key: getattr(self, key) for key in ("success_rate", "episodes", "wilson_low", "wilson_high")}

    def metrics(self) -> dict[str, float]:
        """The same under the keys of ``metrics.jsonl``, with ``eval/task_<id>`` for every task."""
        overall = {f"eval/{key}": float(value) for key, value in self.summary().items()}
        return overall | {f"eval/task_{task.task_id}": task.success_rate for task in self.per_task}


def episode_key(record: Mapping[str, Any]) -> tuple[int, int]:
    """What tells one episode of an evaluation from the others: its task and initial state."""
    return int(record["task_id"]), int(record["init_state_id"])


def tabulate(records: Sequence[Mapping[str, Any]]) -> list[TaskResult]:
    """Success per task, ordered by task."""
    return [
        TaskResult(
            task_id=task,
            instruction=str(of_task[0].get("instruction", f"task {task}")),
            successes=sum(bool(record["success"]) for record in of_task),
            episodes=len(of_task),
        )
        for task, of_task in _by_task(records).items()
    ]


def compare(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], seed: int = 0
) -> PairedDifference | None:
    """Second minus first over the (task, initial state) pairs that both evaluated, or None when they share none.

    Raises:
        ReflexError: the two were measured under different protocols.
    """
    before, after = ({episode_key(record): bool(record["success"]) for record in half} for half in (first, second))
    shared = sorted(before.keys() & after.keys())
    if not shared:
        return None
    check_same(first, second)
    return paired_bootstrap([before[key] for key in shared], [after[key] for key in shared], seed=seed)


def compare_tasks(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> dict[int, PairedDifference]:
    """`compare` for each task of which both evaluated some initial state."""
    after = _by_task(second)
    found = {task: compare(before, after.get(task, [])) for task, before in _by_task(first).items()}
    return {task: difference for task, difference in found.items() if difference is not None}


def evaluations(lines: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Of the lines of ``episodes.jsonl`` those of each evaluation, in the order in which they were made."""
    if any("reward" in line for line in lines):  # a training run: its own rollouts are no evaluation
        lines = [line for line in lines if line["split"] == "eval"]
    steps = sorted({int(line.get("step", 0)) for line in lines})
    return [[line for line in lines if int(line.get("step", 0)) == step] for step in steps]


def evaluated_episodes(run: Path) -> list[dict[str, Any]]:
    """The records of an evaluation's run folder; of a training run's, those of its last evaluation.

    Raises:
        ReflexError: there are none.
    """
    found = evaluations(read_lines(run / "episodes.jsonl"))
    if not found:
        raise ReflexError(f"{run} holds no evaluated episodes; it must be the output folder of vla eval or vla train")
    return found[-1]


def _by_task(records: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Ordered by task."""
    tasks = sorted({int(record["task_id"]) for record in records})
    return {task: [record for record in records if int(record["task_id"]) == task] for task in tasks}
